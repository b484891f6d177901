import statistics
from pathlib import Path

import numpy as np
import pytest

from common.wire import State, pack, spec_of
from server.rounds.checks import update_norm
from server.run.spool import Spool
from server.strategies.aggregation import is_float
from server.strategies.strategies import StrategyName, make_strategy
from tests.support.states import exact_mean, same_bits

BEFORE: State = {
    "w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "scale": np.array(2, np.float32),
    "num_batches_tracked": np.array(5),
}
NAMES = [f"hospital-{i:02d}" for i in range(7)]


def replies(seed: int = 0) -> dict[str, tuple[State, int]]:
    rng = np.random.default_rng(seed)
    return {
        name: (
            {
                key: np.asarray(array + rng.standard_normal(array.shape), array.dtype)
                if is_float(array)
                else np.array(5 + int(rng.integers(1, 20)))
                for key, array in BEFORE.items()
            },
            int(rng.integers(10, 500)),
        )
        for name in NAMES
    }


def combined(
    folder: Path,
    name: StrategyName,
    given: dict[str, tuple[State, int]],
    without: set[str] | None = None,
) -> State:
    with Spool(folder / "replies", spec_of(BEFORE)) as spool:
        strategy = make_strategy(name, BEFORE, spool)
        for site, (state, examples) in given.items():
            spool.put(site, pack(state))
            strategy.add(site, state, examples)
        result = strategy.combine(without or set())
    assert not (folder / "replies").exists()
    return result


@pytest.mark.parametrize("name", ["fedavg", "clipped", "trimmed-mean", "median"])
def test_order_changes_no_bit_and_who_is_left_out_leaves_none(
    tmp_path: Path, name: StrategyName
) -> None:
    given = replies()
    backwards = dict(reversed(given.items()))
    assert same_bits(combined(tmp_path, name, given), combined(tmp_path, name, backwards))
    out = {NAMES[2], NAMES[5]}
    rest = {site: reply for site, reply in given.items() if site not in out}
    result = combined(tmp_path, name, given, out)
    assert same_bits(result, combined(tmp_path, name, rest))
    assert {key: (a.dtype, a.shape) for key, a in result.items()} == {
        key: (a.dtype, a.shape) for key, a in BEFORE.items()
    }


def test_fedavg_is_the_exact_mean(tmp_path: Path) -> None:
    given = replies()
    assert same_bits(combined(tmp_path, "fedavg", given), exact_mean(list(given.values())))


@pytest.mark.parametrize(("count", "cut"), [(7, 2), (5, 1), (3, 1), (2, 0), (1, 0)])
def test_the_trimmed_mean_leaves_out_both_ends_of_each_weight(
    tmp_path: Path, count: int, cut: int
) -> None:
    given = dict(list(replies().items())[:count])
    result = combined(tmp_path, "trimmed-mean", given)
    for key, like in BEFORE.items():
        for index in np.ndindex(like.shape):
            values = sorted(float(state[key][index]) for state, _ in given.values())
            mean = statistics.fmean(values[cut : count - cut])
            expected = mean if is_float(like) else round(mean)
            assert float(result[key][index]) == pytest.approx(expected, rel=1e-6)


def test_the_median_is_that_of_each_weight(tmp_path: Path) -> None:
    given = replies()
    result = combined(tmp_path, "median", given)
    for key, like in BEFORE.items():
        for index in np.ndindex(like.shape):
            values = [float(state[key][index]) for state, _ in given.values()]
            assert float(result[key][index]) == pytest.approx(statistics.median(values))


@pytest.mark.parametrize("value", [2.0**32, 1e30])
@pytest.mark.parametrize("name", ["fedavg", "clipped"])
def test_what_is_too_large_to_be_summed_is_refused_when_it_comes(
    tmp_path: Path, name: StrategyName, value: float
) -> None:
    large = {**BEFORE, "scale": np.array(value, np.float32)}
    for before, after in ((BEFORE, large), (large, BEFORE)):
        with Spool(tmp_path / "replies", spec_of(BEFORE)) as spool:
            strategy = make_strategy(name, before, spool)
            if name == "fedavg" and after is BEFORE:
                strategy.add("a", after, 1000)
                continue
            with pytest.raises(ValueError, match=r"scale holds .*, too large to be averaged"):
                strategy.add("a", after, 1000)


def test_clipped_updates_are_no_longer_than_the_median(tmp_path: Path) -> None:
    given = replies()
    long = {key: BEFORE[key] + 1000 * (a - BEFORE[key]) for key, a in given[NAMES[3]][0].items()}
    given[NAMES[3]] = ({**long, "num_batches_tracked": np.array(9)}, given[NAMES[3]][1])
    norms = {name: update_norm(BEFORE, state) for name, (state, _) in given.items()}
    bound = statistics.median(norms.values())
    total = sum(examples for _, examples in given.values())
    for key in ("w", "scale"):
        expected = BEFORE[key] + sum(
            examples / total * min(1, bound / norms[name]) * (state[key] - BEFORE[key])
            for name, (state, examples) in given.items()
        )
        np.testing.assert_allclose(
            combined(tmp_path, "clipped", given)[key], expected, rtol=1e-5, atol=1e-6
        )
    highest = max(int(state["num_batches_tracked"]) for state, _ in given.values())
    assert int(combined(tmp_path, "clipped", given)["num_batches_tracked"]) == highest
