from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server.strategies.flower.remembered import Memory
from tests.support.states import same_bits

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
ARRAYS = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_]),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
)
VALUES = st.recursive(
    SCALARS | ARRAYS | st.floats(width=32).map(np.float32),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


class Holder:
    limit: float
    turn: int
    names: list[str]

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def same(one: Any, other: Any) -> bool:
    """Return whether two values have the same types and bits all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray | np.generic):
        return same_bits({"": np.asarray(one)}, {"": np.asarray(other)})
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), VALUES))
def test_every_attribute_comes_back(attributes: dict[str, Any]) -> None:
    first, second = Holder(**dict.fromkeys(attributes)), Holder(**dict.fromkeys(attributes))
    memory = Memory("mine:Mine", first, Holder)
    vars(first).update(attributes)
    kept = memory.state_dict()
    assert all(isinstance(array, np.ndarray) for array in kept.values())
    Memory("mine:Mine", second, Holder).load_state_dict(kept)
    assert same(vars(second), vars(first))


def test_what_a_new_one_makes_otherwise_is_kept_though_it_never_changes() -> None:
    """A constructor may take something of the first model, or draw it."""
    holder = Holder(limit=2.0, turn=0, names=["a"], log=print)
    memory = Memory("mine:Mine", holder, Holder)
    holder.turn = 1
    resumed = Holder(limit=18.0, turn=0, names=["b"], log=print)
    Memory("mine:Mine", resumed, Holder).load_state_dict(memory.state_dict())
    assert (resumed.limit, resumed.turn, resumed.names) == (2.0, 1, ["a"])
