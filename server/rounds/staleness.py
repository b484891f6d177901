"""What a late update is worth: one that began from the model of an earlier round.

It is made into the update that would have the same effect on the present model, less a discount,
so that strategies need not know of it. With the model x0 that a hospital trained, s rounds older
than the present model x, and y that it made of it::

    d = 1 / sqrt(1 + s)
    parameters               y' = x + d (y - x0)
    BatchNorm's statistics   y' = d y + (1 - d) x
    BatchNorm's counter      y' = x + (y - x0)

Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022.
BatchNorm's statistics are measured anew rather than changed: a change of a variance that is carried
over may end below zero. A counter goes up by the steps that were taken.
"""

import math

import numpy as np

from common.state import State, is_float, is_parameter


def discount(rounds: int) -> float:
    """Return what an update is worth that began from the model of so many rounds ago."""
    return 1 / math.sqrt(1 + rounds)


def carried_over(base: State, after: State, now: State, rounds: int) -> State:
    """Return what follows the present model by a late update.

    Args:
        base: What was trained.
        after: What came of it, of the same names, dtypes and shapes.
        now: The present model.
        rounds: By how many it is younger than ``base``; 0: ``after`` is returned as it is.
    """
    if not rounds:
        return after
    share = discount(rounds)
    moved: State = {}
    for name, array in after.items():
        if not is_float(array):
            moved[name] = np.asarray(now[name] + (array - base[name]))
            continue
        new, old, present = (a.astype(np.float64) for a in (array, base[name], now[name]))
        if is_parameter(name):
            values = present + share * (new - old)
        else:
            values = share * new + (1 - share) * present
        with np.errstate(over="ignore"):  # whoever checks the update's norm finds it
            moved[name] = values.astype(array.dtype)
    return moved
