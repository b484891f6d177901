"""FedAvg of updates that are shortened to the median of their norms.

Sun et al., "Can You Really Backdoor Federated Learning?", 2019, section 4.1, with the median in
the place of a threshold to be guessed.
"""

import statistics

import numpy as np

from common.state import State, is_float
from server.strategies.base import Strategy, Updates, weighted_mean


class ClippedMean(Strategy):
    """The mean, weighted by examples, of shortened updates."""

    def combine(self, before: State, updates: Updates) -> State:
        """Return the mean; no update is longer than the median of all."""
        bound = statistics.median(info.norm for info in updates.infos.values())
        terms = (
            (_shortened(before, update.weights, bound, update.info.norm), update.info.examples)
            for update in updates
        )
        return weighted_mean(before, terms)


def _shortened(before: State, after: State, bound: float, norm: float) -> State:
    """Return ``before`` and a part of the way to ``after``, in float64; integers of ``after``."""
    factor = min(1.0, bound / norm) if norm else 1.0
    return {
        name: before[name] + factor * (array.astype(np.float64) - before[name])
        if is_float(array)
        else array
        for name, array in after.items()
    }
