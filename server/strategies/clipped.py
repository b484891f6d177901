"""FedAvg of updates that are shortened to the median of their norms.

Sun et al., "Can You Really Backdoor Federated Learning?", 2019, section 4.1, with the median in
the place of a threshold to be guessed.
"""

import statistics

from common.state import State
from server.strategies.base import RoundInfo, Strategy, Updates, part_of_the_way, weighted_mean


class ClippedMean(Strategy):
    """The mean, weighted by examples, of shortened updates."""

    def combine(self, before: State, updates: Updates, about: RoundInfo) -> State:
        """Return the mean; no update is longer than the median of all."""
        del about
        bound = statistics.median(info.norm for info in updates.infos.values())
        terms = (
            (_shortened(before, update.weights, bound, update.info.norm), update.info.weight)
            for update in updates
        )
        return weighted_mean(before, terms)


def _shortened(before: State, after: State, bound: float, norm: float) -> State:
    return part_of_the_way(before, after, min(1.0, bound / norm) if norm else 1.0)
