"""FedAvg: the mean of the hospitals' weights, weighted by their examples.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017, algorithm 1.
"""

from common.state import State
from server.strategies.base import RoundInfo, Strategy, Updates, mean_by_examples


class FedAvg(Strategy):
    """The mean weighted by examples."""

    def combine(self, before: State, updates: Updates, about: RoundInfo) -> State:
        """Return the weighted mean."""
        del about
        return mean_by_examples(before, updates)
