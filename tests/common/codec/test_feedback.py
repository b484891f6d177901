"""What error feedback is for, on losses whose joint optimum is known."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.codec.change import received, sent
from common.options import Training, Wire
from common.seeds import generator
from common.state import State, spec_of
from server.strategies.base import RoundInfo
from server.strategies.fedavg import FedAvg
from tests.support.updates import HeldUpdates

N = 50  # so that topk sends one of them
TOGETHER = np.full(N, 1.0, np.float32)
TOGETHER[0] = 0
APART = np.zeros(N, np.float32)
APART[0] = 10
OPTIMA = (TOGETHER + APART, TOGETHER - APART)  # they disagree on the first, and not on the others


def models(wire: Wire, feedback: bool, rounds: int) -> Iterator[np.ndarray]:
    """Yield FedAvg's models; hospital i has the loss 1/2 |w - b_i|^2, and takes one step."""
    state: State = {"w.weight": np.zeros((1, N), np.float32)}
    residuals: list[State] = [{}, {}]
    about = RoundInfo(1, Training(), 2)
    for number in range(rounds):
        replies = {}
        for i, optimum in enumerate(OPTIMA):
            w = state["w.weight"]
            rate = np.float32(1 / (50 + number / 5))  # what feedback delays is in proportion to it
            after = {"w.weight": w - rate * (w - optimum)}
            rng = generator(1, "wire", number, str(i))
            up = sent(state, after, residuals[i], wire, rng)
            residuals[i] = up.residual if feedback else {}
            arrived = received(up.blob, state, spec_of(state), wire)
            replies[str(i)] = (arrived, 1)
        state = FedAvg().combine(state, HeldUpdates(replies), about)
        yield state["w.weight"][0]


def test_with_feedback_the_largest_changes_lead_to_the_optimum() -> None:
    *_, found = models("topk", feedback=True, rounds=1500)
    np.testing.assert_allclose(found[1:], TOGETHER[1:], atol=0.05)


def test_without_feedback_small_changes_never_count() -> None:
    *_, found = models("topk", feedback=False, rounds=1500)
    np.testing.assert_array_equal(found[1:], 0)


@pytest.mark.parametrize("wire", ["bf16", "int8"])
def test_rounded_changes_lead_to_the_optimum(wire: Wire) -> None:
    *_, found = models(wire, feedback=True, rounds=400)
    np.testing.assert_allclose(found, TOGETHER, atol=0.02)


@given(st.sampled_from(["bf16", "int8", "topk"]), st.integers(0, 2**32))
def test_nothing_is_lost_over_the_rounds(wire: Wire, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (6, 30)
    came, went, residual = np.zeros(shape), np.zeros(shape), State()
    before = {"a.weight": np.zeros(shape, np.float32)}
    for _ in range(8):
        after = {"a.weight": rng.normal(size=shape).astype(np.float32)}
        blob, _, residual = sent(before, after, residual, wire, rng)
        came += after["a.weight"]
        went += received(blob, before, spec_of(before), wire)["a.weight"]
    np.testing.assert_allclose(went + residual["a.weight"], came, atol=1e-4)
