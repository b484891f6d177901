"""Late updates, against a reference that goes number by number."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.state import State
from server.rounds.checks import flaw_of
from server.rounds.staleness import carried_over, discount
from tests.support.states import same_bits

WEIGHT, VARIANCE, COUNTER = "c.weight", "n.running_var", "n.num_batches_tracked"

FLOATS = arrays(np.float32, 3, elements=st.floats(-1e3, 1e3, width=32))
VARIANCES = arrays(np.float32, 3, elements=st.floats(0, 1e3, width=32))
COUNTS = st.integers(0, 10**9)


def state(weight: Any, variance: Any, counter: int) -> State:
    return {
        WEIGHT: np.asarray(weight, np.float32),
        VARIANCE: np.asarray(variance, np.float32),
        COUNTER: np.asarray(counter, np.int64),
    }


STATES = st.builds(state, FLOATS, VARIANCES, COUNTS)


def slowly(base: State, after: State, now: State, rounds: int) -> State:
    share = 1 / (1 + rounds) ** 0.5
    found: dict[str, list[float]] = {WEIGHT: [], VARIANCE: []}
    for i in range(3):
        x0, y, x = (float(of[WEIGHT][i]) for of in (base, after, now))
        found[WEIGHT].append(x + share * (y - x0))
        y, x = (float(of[VARIANCE][i]) for of in (after, now))
        found[VARIANCE].append(share * y + (1 - share) * x)
    steps = int(after[COUNTER]) - int(base[COUNTER])
    return state(found[WEIGHT], found[VARIANCE], int(now[COUNTER]) + steps)


@given(base=STATES, after=STATES, now=STATES, rounds=st.integers(1, 50))
def test_a_late_update_is_carried_over_number_by_number(
    base: State, after: State, now: State, rounds: int
) -> None:
    found = carried_over(base, after, now, rounds)
    assert same_bits(found, slowly(base, after, now, rounds))
    assert flaw_of(found) is None


def test_an_update_of_the_present_model_is_what_it_was() -> None:
    base = state([0.1, 0.2, 0.3], [1, 1, 1], 4)
    after = state([0.15, -0.2, 1e-8], [2, 0, 1], 6)
    assert carried_over(base, after, base, 0) is after


def test_the_discount_is_that_of_the_paper() -> None:
    assert [discount(s) for s in (0, 1, 3, 8)] == pytest.approx([1, math.sqrt(0.5), 0.5, 1 / 3])


def test_what_does_not_fit_a_float_any_more_is_not_finite_and_warns_nobody() -> None:
    base, after = state([-3e38] * 3, [0] * 3, 0), state([3e38] * 3, [0] * 3, 0)
    assert flaw_of(carried_over(base, after, after, 1)) == f"tensor {WEIGHT} is not finite"
