"""FedAvg: the mean of the hospitals' weights, weighted by their examples.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017, algorithm 1.
"""

from typing import ClassVar

from common.state import State
from server.strategies.base import Strategy, Updates, weighted_mean


class FedAvg(Strategy):
    """The mean weighted by examples."""

    believes_claims: ClassVar[bool] = True

    def combine(self, before: State, updates: Updates) -> State:
        """Return the weighted mean."""
        terms = ((update.weights, update.info.examples) for update in updates)
        return weighted_mean(before, terms)
