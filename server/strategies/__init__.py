"""How updates become the next model; one file for each strategy."""

from common.options import StrategyName
from server.strategies.base import Strategy
from server.strategies.clipped import ClippedMean
from server.strategies.fedavg import FedAvg
from server.strategies.median import Median
from server.strategies.trimmed_mean import TrimmedMean

STRATEGIES: dict[StrategyName, type[Strategy]] = {
    "fedavg": FedAvg,
    "clipped": ClippedMean,
    "trimmed-mean": TrimmedMean,
    "median": Median,
}


def make_strategy(name: StrategyName) -> Strategy:
    """Return a strategy for a whole run."""
    return STRATEGIES[name]()
