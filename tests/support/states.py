"""Slow, obvious references for states."""

from collections.abc import Sequence

import numpy as np

from common.state import State


def slow_mean(states: Sequence[tuple[State, float]]) -> State:
    """Return FedAvg one number at a time: Python's floats are float64; integers are the maximum."""
    total = sum(examples for _, examples in states)
    mean: State = {}
    for name, like in states[0][0].items():
        columns = zip(*(state[name].ravel().tolist() for state, _ in states), strict=True)
        weights = [examples for _, examples in states]
        if np.issubdtype(like.dtype, np.floating):
            values: list[float | int] = []
            for column in columns:
                values.append(0.0)
                for value, weight in zip(column, weights, strict=True):
                    values[-1] += weight * value
                values[-1] /= total
        else:
            values = [max(column) for column in columns]
        mean[name] = np.array(values, like.dtype).reshape(like.shape)
    return mean


def slow_average(states: list[State], decay: float) -> State:
    """Return the moving average one number at a time; integers are the last state's."""
    average: State = {}
    for name, like in states[-1].items():
        values = states[0][name].ravel().tolist()
        for state in states[1:]:
            for i, value in enumerate(state[name].ravel().tolist()):
                floats = np.issubdtype(like.dtype, np.floating)
                new = decay * values[i] + (1 - decay) * value if floats else value
                values[i] = like.dtype.type(new).item()
        average[name] = np.array(values, like.dtype).reshape(like.shape)
    return average


def same_bits(one: State, other: State) -> bool:
    """Return whether two states have the same names, dtypes, shapes and bits."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )
