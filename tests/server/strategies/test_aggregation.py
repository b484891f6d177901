from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.wire import State
from server.strategies.aggregation import BLOCK, LARGEST_TERM, ExactSum, FedAvg
from tests.support.states import exact_mean, same_bits

FLOATS = st.floats(-1e6, 1e6, width=32)
SPEC: dict[str, tuple[Any, tuple[int, ...]]] = {
    "weight": (np.float32, (3, 2)),
    "scale": (np.float32, ()),
    "half": (np.float16, (2,)),
    "double": (np.float64, (2,)),
    "empty": (np.float32, (0,)),
    "num_batches_tracked": (np.int64, ()),
    "counts": (np.int64, (2, 2)),
}


def arrays(dtype: Any, shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    if np.issubdtype(dtype, np.integer):
        return hnp.arrays(dtype, shape, elements=st.integers(-(2**62), 2**62))
    width = {np.float16: 16, np.float32: 32, np.float64: 32}[dtype]
    bound = 6e4 if width == 16 else 1e6
    elements = st.floats(-bound, bound, width=width)  # type: ignore[arg-type]
    return hnp.arrays(dtype, shape, elements=elements)


STATES = st.fixed_dictionaries({name: arrays(*spec) for name, spec in SPEC.items()})
REPLIES = st.lists(st.tuples(STATES, st.integers(1, 200_000)), min_size=1, max_size=6)


def mean_of(replies: list[tuple[State, int]]) -> State:
    average = FedAvg(replies[0][0])
    for number, (state, examples) in enumerate(replies):
        average.add(str(number), state, examples)
    return average.mean()


@settings(deadline=None, max_examples=200)
@given(REPLIES)
def test_the_mean_is_that_of_exact_fractions(replies: list[tuple[State, int]]) -> None:
    mean, exact = mean_of(replies), exact_mean(replies)
    for name, (dtype, shape) in SPEC.items():
        assert mean[name].dtype == dtype
        assert mean[name].shape == shape
        if np.issubdtype(dtype, np.integer):
            assert np.array_equal(mean[name], exact[name])
        else:
            # A unit in the last place on either side, and what lies below the finest grid.
            np.testing.assert_allclose(
                mean[name], exact[name], rtol=2 * float(np.finfo(dtype).eps), atol=2.0**-80
            )


@settings(deadline=None)
@given(REPLIES, st.randoms())
def test_the_order_of_arrival_changes_no_bit(replies: list[tuple[State, int]], random: Any) -> None:
    shuffled = list(replies)
    random.shuffle(shuffled)
    assert same_bits(mean_of(replies), mean_of(shuffled))


@settings(deadline=None)
@given(REPLIES, REPLIES)
def test_what_is_taken_back_leaves_no_bit(
    replies: list[tuple[State, int]], others: list[tuple[State, int]]
) -> None:
    average = FedAvg(replies[0][0])
    for number, (state, examples) in enumerate(others):
        average.add(f"other {number}", state, examples)
    for number, (state, examples) in enumerate(replies):
        average.add(str(number), state, examples)
    for number, (state, examples) in enumerate(others):
        average.remove(f"other {number}", state, examples)
    assert same_bits(average.mean(), mean_of(replies))


def test_a_running_float_sum_would_depend_on_the_order() -> None:
    terms = (1e12, 1 / 3, -1e12, 1e-7)
    assert sum(terms) != sum(reversed(terms))
    values = []
    for order in (terms, terms[::-1]):
        total = ExactSum(1)
        for term in order:
            total.add(np.array([term]), 1)
        values.append(total.value().item())
    assert values[0] == values[1] == pytest.approx(1 / 3 + 1e-7, rel=1e-15)


def test_ten_equal_states_average_to_themselves() -> None:
    state = {"weight": np.random.default_rng(0).standard_normal(1000).astype(np.float32)}
    assert same_bits(mean_of([(state, n) for n in range(1, 11)]), state)


def test_integers_are_not_set_to_zero() -> None:
    replies = [({"n": np.array(value)}, 10) for value in (3, 2**62, 5)]
    assert mean_of(replies)["n"].item() == 2**62  # float64 would lose its last bits


@pytest.mark.parametrize("value", [np.inf, np.nan, LARGEST_TERM])
def test_what_cannot_be_summed_exactly_is_refused_whole(value: float) -> None:
    like = {"a": np.zeros(2, np.float64), "b": np.zeros(2, np.float64)}
    average = FedAvg(like)
    average.add("x", {"a": np.ones(2), "b": np.ones(2)}, 5)
    with pytest.raises(ValueError, match="tensor b"):
        average.add("y", {"a": np.full(2, 7.0), "b": np.array([0, value])}, 5)
    assert average.mean()["a"].tolist() == [1, 1]


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no state"):
        FedAvg({"a": np.zeros(1)}).mean()


def test_a_vector_longer_than_a_block_is_summed_whole() -> None:
    vectors = [np.random.default_rng(i).standard_normal(2 * BLOCK + 3) for i in range(3)]
    total = ExactSum(2 * BLOCK + 3)
    for weight, vector in enumerate(vectors, start=1):
        total.add(vector, weight)
    np.testing.assert_allclose(total.value(), vectors[0] + 2 * vectors[1] + 3 * vectors[2])
