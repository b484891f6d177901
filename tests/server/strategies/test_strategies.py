import statistics
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.options import StrategyName, Training
from common.state import State, is_float, spec_of
from common.wire import pack
from server.rounds.pace import norm_of, squared_change
from server.run.spool import Spool
from server.strategies import make_strategy
from server.strategies.base import AT_ONCE, RoundInfo, UpdateInfo, weighted_mean
from server.strategies.settings import StrategySettings
from tests.support.states import same_bits, slow_mean
from tests.support.updates import HeldUpdates

BEFORE: State = {
    "w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "scale": np.array(2, np.float32),
    "num_batches_tracked": np.array(5),
}
ROUND = RoundInfo(1, Training(), 7)
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
    sent: dict[str, tuple[State, int]],
    without: set[str] | None = None,
) -> State:
    spool = Spool(folder / "replies", spec_of(BEFORE))
    for site, (state, examples) in sent.items():
        norm = norm_of(squared_change(BEFORE, state))
        spool.put(site, pack(state), UpdateInfo(examples, norm))
    updates = spool.updates(sent.keys() - (without or set()))
    return make_strategy(StrategySettings(strategy=name)).combine(BEFORE, updates, ROUND)


@pytest.mark.parametrize("name", ["fedavg", "clipped", "trimmed-mean", "median"])
def test_order_changes_no_bit_and_who_is_left_out_leaves_none(
    tmp_path: Path, name: StrategyName
) -> None:
    sent = replies()
    backwards = dict(reversed(sent.items()))
    assert same_bits(combined(tmp_path, name, sent), combined(tmp_path, name, backwards))
    out = {NAMES[2], NAMES[5]}
    rest = {site: reply for site, reply in sent.items() if site not in out}
    result = combined(tmp_path, name, sent, out)
    assert same_bits(result, combined(tmp_path, name, rest))
    assert {key: (a.dtype, a.shape) for key, a in result.items()} == {
        key: (a.dtype, a.shape) for key, a in BEFORE.items()
    }


def test_fedavg_is_the_weighted_mean(tmp_path: Path) -> None:
    sent = replies()
    assert same_bits(combined(tmp_path, "fedavg", sent), slow_mean(list(sent.values())))


@pytest.mark.parametrize(("count", "cut"), [(7, 2), (5, 1), (3, 1), (2, 0), (1, 0)])
def test_the_trimmed_mean_leaves_out_both_ends_of_each_weight(
    tmp_path: Path, count: int, cut: int
) -> None:
    sent = dict(list(replies().items())[:count])
    result = combined(tmp_path, "trimmed-mean", sent)
    for key, like in BEFORE.items():
        for index in np.ndindex(like.shape):
            values = sorted(float(state[key][index]) for state, _ in sent.values())
            mean = statistics.fmean(values[cut : count - cut])
            expected = mean if is_float(like) else round(mean)
            assert float(result[key][index]) == pytest.approx(expected, rel=1e-6)


def test_the_median_is_that_of_each_weight(tmp_path: Path) -> None:
    sent = replies()
    result = combined(tmp_path, "median", sent)
    for key, like in BEFORE.items():
        for index in np.ndindex(like.shape):
            values = [float(state[key][index]) for state, _ in sent.values()]
            assert float(result[key][index]) == pytest.approx(statistics.median(values))


@pytest.mark.parametrize("name", ["fedavg", "clipped", "trimmed-mean", "median"])
def test_extreme_weights_do_not_overflow(tmp_path: Path, name: StrategyName) -> None:
    largest = float(np.finfo(np.float32).max)
    sent = {site: ({**BEFORE, "scale": np.array(largest, np.float32)}, 2**24) for site in NAMES[:3]}
    spool = Spool(tmp_path / "replies", spec_of(BEFORE))
    for site, (state, examples) in sent.items():
        spool.put(site, pack(state), UpdateInfo(examples, largest))
    result = make_strategy(StrategySettings(strategy=name)).combine(
        BEFORE, spool.updates(sent.keys()), ROUND
    )
    assert result["scale"] == pytest.approx(largest)


def test_clipped_updates_are_no_longer_than_the_median(tmp_path: Path) -> None:
    sent = replies()
    long = {key: BEFORE[key] + 1000 * (a - BEFORE[key]) for key, a in sent[NAMES[3]][0].items()}
    sent[NAMES[3]] = ({**long, "num_batches_tracked": np.array(9)}, sent[NAMES[3]][1])
    norms = {name: norm_of(squared_change(BEFORE, state)) for name, (state, _) in sent.items()}
    bound = statistics.median(norms.values())
    for key in ("w", "scale"):
        expected = BEFORE[key] + sum(
            min(1, bound / norms[name]) * (state[key] - BEFORE[key]) / len(sent)
            for name, (state, _) in sent.items()
        )
        np.testing.assert_allclose(
            combined(tmp_path, "clipped", sent)[key], expected, rtol=1e-5, atol=1e-6
        )
    highest = max(int(state["num_batches_tracked"]) for state, _ in sent.values())
    assert int(combined(tmp_path, "clipped", sent)["num_batches_tracked"]) == highest


def test_statistics_that_move_further_let_no_weights_pass() -> None:
    before: State = {
        "c.weight": np.zeros(4, np.float32),
        "n.running_mean": np.zeros(3, np.float32),
        "n.running_var": np.full(3, 100, np.float32),
    }
    moved = {"c.weight": 0.1, "n.running_mean": 4.0, "n.running_var": 5.0}
    honest = {name: np.asarray(a + np.float32(moved[name])) for name, a in before.items()}
    # Turned round and ten times as long: still far shorter than what its statistics do.
    liar = honest | {"c.weight": np.full(4, -1, np.float32)}
    further = honest | {"n.running_mean": np.full(3, 1e6, np.float32)}
    sent = {f"hospital-{i}": (honest, 10) for i in range(6)}
    sent |= {"liar": (liar, 10), "moved": (further, 10)}
    for chosen in ({"strategy": "clipped"}, {"strategy": "fedavgm", "average": "clipped"}):
        strategy = make_strategy(StrategySettings.model_validate(chosen))
        after = strategy.combine(before, HeldUpdates(sent), ROUND)
        # Seven go one way and one the other, all as far.
        np.testing.assert_allclose(after["c.weight"], (7 * 0.1 - 0.1) / 8, rtol=1e-6)
        bound = np.sqrt(3 * 4**2 + 3 * 5**2)
        shortened = bound / np.sqrt(3 * 1e6**2 + 3 * 5**2)
        means = 7 * 4 + shortened * 1e6, 7 * 5 + shortened * 5
        np.testing.assert_allclose(after["n.running_mean"], means[0] / 8, rtol=1e-6)
        np.testing.assert_allclose(after["n.running_var"], 100 + means[1] / 8, rtol=1e-6)


@pytest.mark.parametrize("name", ["clipped", "trimmed-mean", "median"])
def test_a_robust_mean_believes_no_claim_of_films(tmp_path: Path, name: StrategyName) -> None:
    sent = replies()
    claimed = sent | {NAMES[3]: (sent[NAMES[3]][0], 1_000_000)}
    assert same_bits(combined(tmp_path, name, claimed), combined(tmp_path, name, sent))


STATES = st.fixed_dictionaries(
    {
        "w": hnp.arrays(np.float32, (3, 2), elements=st.floats(-1e6, 1e6, width=32)),
        "half": hnp.arrays(np.float16, (2,), elements=st.floats(-6e4, 6e4, width=16)),
        "scale": hnp.arrays(np.float64, (), elements=st.floats(-1e6, 1e6, width=32)),
        "empty": hnp.arrays(np.float32, (0,)),
        "n": hnp.arrays(np.int64, (2,), elements=st.integers(-(2**62), 2**62)),
    }
)


@settings(deadline=None)
@given(st.lists(st.tuples(STATES, st.integers(1, 200_000)), min_size=1, max_size=6))
def test_the_weighted_mean_is_that_of_a_loop(replies: list[tuple[State, int]]) -> None:
    assert same_bits(weighted_mean(replies[0][0], replies), slow_mean(replies))


def test_a_mean_holds_few_states_at_once() -> None:
    made: list[weakref.ref[npt.NDArray[Any]]] = []
    held: list[int] = []

    def states() -> Iterator[tuple[State, float]]:
        for number in range(5 * AT_ONCE):
            held.append(sum(each() is not None for each in made))
            array = np.full(3, number, np.float32)
            made.append(weakref.ref(array))
            state = {"w": array}
            del array
            yield state, 1
            del state

    weighted_mean({"w": np.zeros(3, np.float32)}, states())
    assert max(held) <= AT_ONCE


def test_equal_states_average_to_themselves() -> None:
    state = {"w": np.random.default_rng(0).standard_normal(1000).astype(np.float32)}
    assert same_bits(weighted_mean(state, [(state, n) for n in range(1, 11)]), state)


def test_counters_of_batches_keep_their_last_bits() -> None:
    states = [({"n": np.array(value)}, 10) for value in (3, 2**62, 5)]
    assert weighted_mean(states[0][0], states)["n"].item() == 2**62  # more than a float64 holds


def test_a_strategy_that_remembers_nothing_takes_nothing() -> None:
    make_strategy(StrategySettings(strategy="median")).load_state_dict({})
    with pytest.raises(ValueError, match="remembers nothing"):
        make_strategy(StrategySettings(strategy="fedavg")).load_state_dict(BEFORE)
