"""Draws from a secret: distribution, and that they are a function of secret and purpose."""

import numpy as np
import pytest
from scipy import stats

from common.secret_stream import SecretStream

FALSE_ALARM = 1e-9
"""Chance of each test of a distribution to fail although all is right."""

COUNT = 200_001


def stream(secret: int = 1, purpose: bytes = b"noise") -> SecretStream:
    return SecretStream(bytes([secret]) * 32, purpose)


def test_normal_numbers_have_the_stated_distribution() -> None:
    values = stream().normal(COUNT)
    assert values.shape == (COUNT,)
    assert stats.kstest(values, "norm").pvalue > FALSE_ALARM
    # The sum of squares of standard normal numbers is chi-squared.
    low, high = stats.chi2(COUNT).interval(1 - FALSE_ALARM)
    assert low < np.sum(values**2) < high
    halves = np.corrcoef(values[: COUNT // 2], values[COUNT // 2 : 2 * (COUNT // 2)])[0, 1]
    assert abs(halves) < stats.norm.isf(FALSE_ALARM) / np.sqrt(COUNT // 2)


def test_uniform_numbers_have_the_stated_distribution() -> None:
    values = stream().uniform(COUNT)
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > FALSE_ALARM


def test_the_same_secret_and_purpose_give_the_same_draws_and_others_give_others() -> None:
    first = stream().uniform(8)
    assert (stream().uniform(8) == first).all()
    for other in (stream(2), stream(purpose=b"noises")):
        assert not (other.uniform(8) == first).any()


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_any_number_of_draws(count: int) -> None:
    assert stream().normal(count).shape == stream().uniform(count).shape == (count,)


def test_later_draws_go_on_where_earlier_ones_ended() -> None:
    both = stream().uniform(6)
    one = stream()
    assert (np.concatenate([one.uniform(2), one.uniform(4)]) == both).all()
