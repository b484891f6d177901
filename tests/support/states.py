"""Slow, obvious references for states."""

from fractions import Fraction

import numpy as np

from common.wire import State


def exact_mean(states: list[tuple[State, int]]) -> State:
    """Return FedAvg computed the slow way: fractions for floats, maximum for integers."""
    total = sum(examples for _, examples in states)
    mean: State = {}
    for name, like in states[0][0].items():
        columns = zip(*(state[name].ravel().tolist() for state, _ in states), strict=True)
        if np.issubdtype(like.dtype, np.floating):
            values: list[float | int] = [
                float(
                    sum(
                        (Fraction(v) * n for v, (_, n) in zip(column, states, strict=True)),
                        Fraction(),
                    )
                )
                / total
                for column in columns
            ]
        else:
            values = [max(column) for column in columns]
        mean[name] = np.array(values, like.dtype).reshape(like.shape)
    return mean


def same_bits(one: State, other: State) -> bool:
    """Return whether two states have the same names, dtypes, shapes and bits."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )
