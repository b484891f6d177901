"""The noisy mean: what one hospital can do to it, the noise's variance, and the bound."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from common.accounting import Noisy, epsilon_of
from common.options import LEAST_CLIP, Training
from common.state import State, is_parameter
from server.rounds.spending import privacy_of, spent_in
from server.strategies.base import RoundInfo
from server.strategies.private_mean import OF_BOUND, PrivateMean, count_noise
from tests.support.hospitals import STATE
from tests.support.records import HOSPITAL, round_record
from tests.support.updates import HeldUpdates

FALSE_ALARM = 1e-9
QUIET = 1e-12


def about(number: int = 1, clip: float = 1.0, noise: float = 1.0) -> RoundInfo:
    return RoundInfo(number, Training(dp="site", dp_clip=clip, dp_noise=noise), 3)


def moved(length: float, seed: int) -> State:
    """Return the model after a change of its parameters of this length."""
    rng = np.random.default_rng(seed)
    change = {n: rng.normal(size=a.shape) for n, a in STATE.items() if is_parameter(n)}
    norm = math.sqrt(sum(float((each**2).sum()) for each in change.values()))
    return {
        name: array + (change[name] * length / norm).astype(np.float32) if name in change else array
        for name, array in STATE.items()
    }


def flat(after: State) -> np.ndarray:
    return np.concatenate(
        [(after[n].astype(np.float64) - a).ravel() for n, a in STATE.items() if is_parameter(n)]
    )


def mean_of(
    folder: Path, changes: list[State], noise: float, quantile: float | None = None, clip: float = 1
) -> tuple[State, PrivateMean]:
    strategy = PrivateMean(quantile, folder / "noise.key")
    updates = HeldUpdates({f"h{i}": (each, i + 1) for i, each in enumerate(changes)})
    # Less noise than an option may have, where a test is about the mean.
    told = about(clip=clip)
    training = told.training.model_copy(update={"dp_noise": noise})
    return strategy.combine(STATE, updates, told._replace(training=training)), strategy


def test_it_is_the_mean_of_shortened_updates_all_counting_the_same(tmp_path: Path) -> None:
    lengths = [0.5, 1.0, 40.0]
    changes = [moved(length, seed) for seed, length in enumerate(lengths)]
    after, _ = mean_of(tmp_path, changes, QUIET)
    expected = sum(
        flat(change) * min(1.0, 1.0 / length)
        for change, length in zip(changes, lengths, strict=True)
    )
    np.testing.assert_allclose(flat(after), expected / 3, atol=1e-6)
    for name, array in STATE.items():
        assert is_parameter(name) or np.array_equal(after[name], array), name


def test_a_hospital_moves_the_mean_by_no_more_than_its_share(tmp_path: Path) -> None:
    others = [moved(0.5, 1), moved(0.5, 2)]
    with_it, _ = mean_of(tmp_path, [*others, moved(1000.0, 3)], QUIET)
    without, _ = mean_of(tmp_path, [*others, STATE], QUIET)
    assert np.linalg.norm(flat(with_it) - flat(without)) == pytest.approx(1 / 3, rel=1e-3)


def test_the_noise_has_the_stated_variance(tmp_path: Path) -> None:
    after, _ = mean_of(tmp_path, [STATE] * 4, 3.0, clip=0.5)
    noise = flat(after) * 4 / (3.0 * 0.5)
    low, high = stats.chi2(len(noise)).interval(1 - FALSE_ALARM)
    assert low < np.sum(noise**2) < high
    assert stats.kstest(noise, "norm").pvalue > FALSE_ALARM


def test_the_noise_is_the_same_for_the_same_updates_alone(tmp_path: Path) -> None:
    one, other = [moved(0.5, 1), moved(0.5, 2)], [moved(0.5, 1), moved(0.4, 2)]
    first, again, elsewhere = (flat(mean_of(tmp_path, each, 1.0)[0]) for each in (one, one, other))
    assert np.array_equal(first, again)
    assert np.abs(first - elsewhere).max() > 0.5
    (tmp_path / "b").mkdir()
    assert not np.array_equal(first, flat(mean_of(tmp_path / "b", one, 1.0)[0]))
    assert (tmp_path / "noise.key").stat().st_mode & 0o777 == 0o600


def test_the_bound_goes_to_the_quantile(tmp_path: Path) -> None:
    lengths = np.linspace(1, 5, 21)
    updates = HeldUpdates({f"h{i:02d}": (moved(length, i), 1) for i, length in enumerate(lengths)})
    strategy = PrivateMean(0.25, tmp_path / "noise.key")
    for number in range(1, 60):
        strategy.combine(STATE, updates, about(number, noise=0.3))
    kept = strategy.state_dict()
    assert np.quantile(lengths, 0.05) < float(kept["bound"]) < np.quantile(lengths, 0.5)
    still = HeldUpdates({f"h{i:03d}": (moved(0.0, i), 1) for i in range(100)})
    for number in range(60, 260):  # noise of a smaller bound would be lost in a float
        strategy.combine(STATE, still, about(number, noise=0.3))
    assert float(strategy.state_dict()["bound"]) == pytest.approx(LEAST_CLIP, rel=1.0)
    assert float(strategy.state_dict()["bound"]) >= LEAST_CLIP
    again = PrivateMean(0.25, tmp_path / "noise.key")
    again.load_state_dict(kept)
    assert float(again.state_dict()["bound"]) == float(kept["bound"])


@pytest.mark.parametrize("noise", [0.3, 1.0, 7.0])
def test_changes_and_count_together_cost_what_is_stated(noise: float) -> None:
    """Two Gaussian mechanisms on the same data are one: inverse squares add up."""
    together = (noise * (1 + OF_BOUND)) ** -2 + (2 * count_noise(noise)) ** -2
    assert together == pytest.approx(noise**-2)


def test_each_hospital_has_spent_the_rounds_in_which_it_counted() -> None:
    training = Training(dp="site", dp_noise=2.0)
    part = HOSPITAL
    done = [
        round_record(1, hospitals={"a": part, "b": part}),
        round_record(2, hospitals={"a": part}),
    ]
    spent = spent_in(done, {"a": part, "c": part}, training)
    expected = {"a": 3, "c": 1}
    assert {name: each.epsilon for name, each in spent.items()} == {
        name: epsilon_of([Noisy(noise=2.0, rate=1, steps=steps)], 1e-5)
        for name, steps in expected.items()
    }
    promise = privacy_of(done, spent.values(), training)
    assert promise is not None
    assert promise.epsilon == spent["a"].epsilon
    assert spent_in(done, {"a": part}, Training()) == {}
    assert privacy_of(done, [], Training()) is None
