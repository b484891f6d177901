"""Epsilon, against an exact formula and published values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import optimize, stats

from client.policy import Budget
from common.accounting import LARGEST_EPSILON, Noisy, epsilon_of
from common.options import LEAST_NOISE
from common.protocol import PrivacySpent


def exact(noise: float, steps: int, delta: float) -> float:
    """Return the epsilon of Gaussian mechanisms without sampling.

    Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy", ICML 2018, theorem
    8; so many steps are one with less noise.
    """
    deviation = noise / math.sqrt(steps)

    def missing(epsilon: float) -> float:
        half = 1 / (2 * deviation)
        inside = stats.norm.cdf(half - epsilon * deviation)
        outside = math.exp(epsilon + stats.norm.logcdf(-half - epsilon * deviation))
        return float(inside - outside - delta)

    return float(optimize.brentq(missing, 0, 1000))


@settings(max_examples=10, deadline=None)
@given(st.floats(0.8, 20), st.integers(1, 50), st.sampled_from([1e-3, 1e-5, 1e-6]))
def test_without_sampling_epsilon_is_that_of_the_exact_formula(
    noise: float, steps: int, delta: float
) -> None:
    found = epsilon_of([Noisy(noise=noise, rate=1, steps=steps)], delta)
    expected = exact(noise, steps, delta)
    assert expected - 1e-3 <= found <= expected + 0.02 + 0.01 * expected


def sampled(noise: float, rate: float, steps: int, delta: float) -> float:
    """Return the epsilon of sampled Gaussian mechanisms, from the losses' distribution on a grid.

    The loss is that of a mixture against a normal distribution (Abadi et al., CCS 2016, section
    3.2); its sum over the steps has the power of its transform.
    """
    step, count = 1e-4, 1 << 19
    edges = (np.arange(count + 1) - count // 2 - 0.5) * step
    with np.errstate(invalid="ignore", divide="ignore"):
        at = noise**2 * np.log((np.exp(edges) - (1 - rate)) / rate) + 0.5
    at = np.where(edges > math.log1p(-rate), at, -np.inf)
    below = (1 - rate) * stats.norm.cdf(at / noise) + rate * stats.norm.cdf((at - 1) / noise)
    spectrum = np.fft.rfft(np.fft.ifftshift(np.diff(below)))
    mass = np.fft.fftshift(np.fft.irfft(spectrum**steps, count))
    losses = (np.arange(count) - count // 2) * step

    def missing(epsilon: float) -> float:
        beyond = losses > epsilon
        return float((mass[beyond] * -np.expm1(epsilon - losses[beyond])).sum() - delta)

    return float(optimize.brentq(missing, 0, losses[-1]))


@pytest.mark.parametrize(
    ("noise", "rate", "steps"),
    [(4, 0.01, 10_000), (1, 0.1, 50), (2, 0.05, 200), (0.8, 0.02, 300)],
)
def test_with_sampling_epsilon_is_a_little_above_the_numerical_one(
    noise: float, rate: float, steps: int
) -> None:
    found = epsilon_of([Noisy(noise=noise, rate=rate, steps=steps)], 1e-5)
    expected = sampled(noise, rate, steps, 1e-5)
    assert expected < found < expected + 0.02


def test_epsilon_is_below_a_published_bound() -> None:
    """Abadi et al., CCS 2016, section 3.2: q = 0.01, sigma = 4 and 10,000 steps give 1.26."""
    assert epsilon_of([Noisy(noise=4, rate=0.01, steps=10_000)], 1e-5) < 1.26


def test_steps_of_several_rounds_add_up_in_any_order() -> None:
    one, other = Noisy(noise=1, rate=0.1, steps=5), Noisy(noise=2, rate=0.2, steps=3)
    twice = Noisy(noise=1, rate=0.1, steps=10)
    assert epsilon_of([one, other, one], 1e-5) == epsilon_of([other, twice], 1e-5)
    assert epsilon_of([one], 1e-5) < epsilon_of([twice], 1e-5) < epsilon_of([twice, other], 1e-5)


@pytest.mark.parametrize(
    ("rate", "steps"), [(0.5, 300), (1, 10_000), (1, 10**12)], ids=["infinite", "4 GB", "huge"]
)
def test_a_promise_that_is_void_is_still_a_number_and_beyond_every_budget(
    rate: float, steps: int
) -> None:
    found = epsilon_of([Noisy(noise=LEAST_NOISE, rate=rate, steps=steps)], 1e-5)
    assert PrivacySpent(epsilon=found, delta=1e-5).epsilon > 700
    assert found <= LARGEST_EPSILON
    with pytest.raises(ValidationError):
        Budget(epsilon=LARGEST_EPSILON)


def test_where_the_coarser_bound_takes_over_epsilon_is_a_bound_still() -> None:
    for steps in (80, 85, 90, 95, 100):
        found = epsilon_of([Noisy(noise=0.6, rate=1, steps=steps)], 1e-5)
        assert exact(0.6, steps, 1e-5) <= found <= 1.05 * exact(0.6, steps, 1e-5)


def test_nothing_costs_nothing() -> None:
    assert epsilon_of([], 1e-5) == 0
