"""The mean of updates that are shortened to the median of their norms.

Sun et al., "Can You Really Backdoor Federated Learning?", 2019, section 4.1, with the median in
the place of a threshold to be guessed. Parameters and BatchNorm's statistics are shortened each by
itself: statistics move much further, and one norm of both would let any parameters pass. All
hospitals count the same, or one could claim the films of all others.
"""

import math
import statistics

import numpy as np

from common.state import State, is_float, is_parameter
from server.strategies.base import RoundInfo, Strategy, Updates, part_of_the_way, weighted_mean


class ClippedMean(Strategy):
    """The uniform mean of shortened updates."""

    def combine(self, before: State, updates: Updates, about: RoundInfo) -> State:
        """Return the mean; no update's parameters, and no statistics, are longer than the median.

        Reads the updates twice.
        """
        del about
        norms = {update.name: _norms(before, update.weights) for update in updates}
        bounds = [statistics.median(part) for part in zip(*norms.values(), strict=True)]

        def shortened(name: str, after: State) -> State:
            whole: State = {}
            for part, bound, norm in zip(_parts(after), bounds, norms[name], strict=True):
                whole |= part_of_the_way(before, part, min(1.0, bound / norm) if norm else 1.0)
            return whole

        terms = ((shortened(each.name, each.weights), 1) for each in updates)
        return weighted_mean(before, terms)


def _norms(before: State, after: State) -> list[float]:
    """Return the Euclidean norm of the change of each part."""
    norms = []
    for part in _parts(after):
        changes = (a.astype(np.float64) - before[n] for n, a in part.items() if is_float(a))
        norms.append(math.sqrt(sum(float(np.vdot(each, each)) for each in changes)))
    return norms


def _parts(state: State) -> tuple[State, State]:
    """Return the parameters, and the rest."""
    parts: tuple[State, State] = ({}, {})
    for name, array in state.items():
        parts[not is_parameter(name)][name] = array
    return parts
