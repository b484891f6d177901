"""Each strategy against its formula, one number at a time in Python's floats."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.options import StrategyName, Training
from common.state import State
from server.strategies import make_strategy
from server.strategies.base import RoundInfo, Strategy
from server.strategies.settings import StrategySettings
from tests.support.states import same_bits
from tests.support.updates import HeldUpdates

ALPHA = 0.05
TRAINING = Training(lr=0.1, momentum=0.5, batch_size=4, alpha=ALPHA)
NEUTRAL: dict[StrategyName, dict[str, float]] = {
    "fedavg": {},
    "fedavgm": {"server_lr": 1, "server_momentum": 0},
    "fednova": {},
}


def state_of(w: list[float], mean: float, variance: float, count: int) -> State:
    return {
        "c.weight": np.array(w, np.float32),
        "n.running_mean": np.array([mean], np.float32),
        "n.running_var": np.array([variance], np.float32),
        "n.num_batches_tracked": np.array(count),
    }


BEFORE = state_of([1.0, -2.0, 0.5], 0.1, 1.0, 10)
NUMBER = st.floats(-3, 3, width=32)
REPLY = st.tuples(
    st.builds(
        state_of,
        st.lists(NUMBER, min_size=3, max_size=3),
        NUMBER,
        st.floats(0, 3, width=32),
        st.integers(10, 20),
    ),
    st.integers(1, 30),
)
ROUNDS = st.lists(st.lists(REPLY, min_size=1, max_size=4), min_size=1, max_size=3)
Reply = tuple[State, int]
Formula = Callable[[list[float], list[Reply], dict[str, list[float]]], list[float]]
"""Weights before, replies, what is remembered -> weights after."""


def mean(replies: list[Reply], index: int) -> float:
    total = sum(n for _, n in replies)
    return sum(n * float(state["c.weight"][index]) for state, n in replies) / total


def fednova(before: list[float], replies: list[Reply], _kept: object) -> list[float]:
    total = sum(n for _, n in replies)
    a = []
    for _, n in replies:
        steps = math.ceil(n / 4)
        speeds = [sum(0.5**j for j in range(k + 1)) for k in range(steps)]
        a.append(sum(speeds))
    a_eff = sum(n / total * own for (_, n), own in zip(replies, a, strict=True))
    return [
        x
        + a_eff
        * sum(
            n / total * (float(s["c.weight"][i]) - x) / own
            for (s, n), own in zip(replies, a, strict=True)
        )
        for i, x in enumerate(before)
    ]


def fedavgm(before: list[float], replies: list[Reply], kept: dict[str, list[float]]) -> list[float]:
    m = kept.setdefault("m", [0.0] * 3)
    for i, x in enumerate(before):
        m[i] = 0.8 * m[i] + mean(replies, i) - x
    return [x + 0.7 * m[i] for i, x in enumerate(before)]


def adaptive(name: str) -> Formula:
    def step(
        before: list[float], replies: list[Reply], kept: dict[str, list[float]]
    ) -> list[float]:
        m, v = kept.setdefault("m", [0.0] * 3), kept.setdefault("v", [0.01**2] * 3)
        after = []
        for i, x in enumerate(before):
            d = mean(replies, i) - x
            m[i] = 0.8 * m[i] + 0.2 * d
            if name == "fedadagrad":
                v[i] += d**2
            elif name == "fedadam":
                v[i] = 0.9 * v[i] + 0.1 * d**2
            else:
                v[i] -= 0.1 * d**2 * (v[i] > d**2) - 0.1 * d**2 * (v[i] < d**2)
            after.append(x + 0.7 * m[i] / (math.sqrt(v[i]) + 0.01))
        return after

    return step


def scaffold(
    before: list[float], replies: list[Reply], kept: dict[str, list[float]]
) -> list[float]:
    c = kept.setdefault("c", [0.0] * 3)
    for i, x in enumerate(before):
        changes = []
        for state, n in replies:
            times = sum(0.5**j for k in range(math.ceil(n / 4)) for j in range(k + 1))
            changes.append((x - float(state["c.weight"][i])) / (times * 0.1) - c[i])
        c[i] += len(replies) / 5 * sum(changes) / len(changes)
    return [
        x + sum(float(s["c.weight"][i]) - x for s, _ in replies) / len(replies)
        for i, x in enumerate(before)
    ]


def feddyn(before: list[float], replies: list[Reply], kept: dict[str, list[float]]) -> list[float]:
    h = kept.setdefault("h", [0.0] * 3)
    after = []
    for i, x in enumerate(before):
        ys = [float(s["c.weight"][i]) for s, _ in replies]
        h[i] -= ALPHA / 5 * sum(y - x for y in ys)
        after.append(sum(ys) / len(ys) - h[i] / ALPHA)
    return after


STEP = {"server_lr": 0.7, "server_momentum": 0.8}
FORMULAS: dict[StrategyName, tuple[dict[str, float], Formula]] = {
    "fednova": ({}, fednova),
    "fedavgm": (STEP, fedavgm),
    "fedadagrad": ({**STEP, "tau": 0.01}, adaptive("fedadagrad")),
    "fedadam": ({**STEP, "tau": 0.01, "beta2": 0.9}, adaptive("fedadam")),
    "fedyogi": ({**STEP, "tau": 0.01, "beta2": 0.9}, adaptive("fedyogi")),
    "scaffold": ({}, scaffold),
    "feddyn": ({}, feddyn),
}


def strategy_of(name: StrategyName, values: dict[str, float]) -> Strategy:
    return make_strategy(StrategySettings.model_validate({"strategy": name, **values}))


def held(replies: list[Reply]) -> HeldUpdates:
    return HeldUpdates({f"hospital-{i}": reply for i, reply in enumerate(replies)})


@pytest.mark.parametrize("name", FORMULAS)
@given(rounds=ROUNDS)
@settings(deadline=None, max_examples=40)
def test_a_strategy_is_its_formula_and_goes_on_from_what_it_has_kept(
    name: StrategyName, rounds: list[list[Reply]]
) -> None:
    values, formula = FORMULAS[name]
    strategy, before = strategy_of(name, values), BEFORE
    kept: dict[str, list[float]] = {}
    plain = strategy_of("fedavg", {})
    for number, replies in enumerate(rounds, 1):
        about = RoundInfo(number, TRAINING, 5)
        again = strategy_of(name, values)
        again.load_state_dict({n: a.copy() for n, a in strategy.state_dict().items()})
        after = strategy.combine(before, held(replies), about)
        assert same_bits(again.combine(before, held(replies), about), after)
        assert list(after) == list(before)
        expected = formula(before["c.weight"].tolist(), replies, kept)
        np.testing.assert_allclose(after["c.weight"], expected, rtol=2e-4, atol=2e-4)
        buffers = [tensor for tensor in before if tensor.startswith("n.")]
        averaged = plain.combine(before, held(replies), about)
        assert same_bits({b: after[b] for b in buffers}, {b: averaged[b] for b in buffers})
        remembered = strategy.state_dict()
        for moment, numbers in kept.items():
            tensor = "c.weight" if moment in ("c", "h") else f"{moment}/c.weight"
            np.testing.assert_allclose(remembered[tensor], numbers, rtol=2e-4, atol=2e-4)
        before = after


@pytest.mark.parametrize("name", NEUTRAL)
@given(replies=st.lists(REPLY, min_size=1, max_size=5))
@settings(deadline=None)
def test_the_neutral_setting_is_fedavg_bit_for_bit(
    name: StrategyName, replies: list[Reply]
) -> None:
    alike = [(state, 1 + n % 4) for state, n in replies]  # one step each
    about = RoundInfo(1, TRAINING, 5)
    after = strategy_of(name, NEUTRAL[name]).combine(BEFORE, held(alike), about)
    assert same_bits(after, strategy_of("fedavg", {}).combine(BEFORE, held(alike), about))


@pytest.mark.parametrize("name", ["fedavg", "fednova", "fedavgm", "fedadam"])
@given(replies=st.lists(REPLY, min_size=2, max_size=4), times=st.integers(1, 5))
@settings(deadline=None)
def test_a_hospital_that_is_rarely_asked_counts_as_if_it_were_there_more_often(
    name: StrategyName, replies: list[Reply], times: int
) -> None:
    about = RoundInfo(1, TRAINING, 5)
    rare = {f"hospital-{i}": reply for i, reply in enumerate(replies)}
    often = rare | {f"hospital-0-{i}": replies[0] for i in range(1, times)}
    found, expected = (
        strategy_of(name, {}).combine(BEFORE, updates, about)
        for updates in (
            HeldUpdates(rare, {"hospital-0": {"chance": 1 / times}}),
            HeldUpdates(often),
        )
    )
    for tensor in BEFORE:
        np.testing.assert_allclose(found[tensor], expected[tensor], rtol=1e-4, atol=1e-5)


def test_fednova_divides_a_late_update_by_the_steps_at_its_own_learning_rate() -> None:
    now = Training(lr=0.01, momentum=0.9, batch_size=4, local="fedprox", mu=1)
    then = now.model_copy(update={"lr": 0.1})
    far, near = (state_of([move, 0.0, 0.0], 0.1, 1.0, 11) for move in (5.0, 2.0))
    updates = HeldUpdates({"a": (far, 40), "b": (near, 40)}, {"a": {"lr": 0.1}})
    found = strategy_of("fednova", {}).combine(BEFORE, updates, RoundInfo(2, now, 2))
    a, b = then.effective_steps(10), now.effective_steps(10)
    expected = 1 + (a + b) / 2 * ((5 - 1) / a + (2 - 1) / b) / 2
    assert found["c.weight"][0] == pytest.approx(expected, rel=1e-5)
    assert a < 0.9 * b


@pytest.mark.parametrize("average", ["clipped", "trimmed-mean", "median"])
def test_the_servers_step_goes_along_a_robust_mean(average: str) -> None:
    liar = state_of([1e6, 1e6, 1e6], 1e6, 1e6, 11)
    honest = state_of([1.1, -1.9, 0.6], 0.1, 1.0, 11)
    replies: list[Reply] = [(honest, 5)] * 4
    replies.append((liar, 30))
    settings = {"strategy": "fedavgm", "server_momentum": 0, "average": average}
    about = RoundInfo(1, TRAINING, 5)
    after = make_strategy(StrategySettings.model_validate(settings))
    alone = make_strategy(StrategySettings.model_validate({"strategy": average}))
    got, expected = (s.combine(BEFORE, held(replies), about) for s in (after, alone))
    assert same_bits(got, expected)
    assert not StrategySettings.model_validate(settings).believes_claims
