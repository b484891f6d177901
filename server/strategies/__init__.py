"""How updates become the next model; one file for each strategy."""

from collections.abc import Callable, Mapping
from pathlib import Path

from common.state import State
from server.strategies.base import Strategy
from server.strategies.clipped import ClippedMean
from server.strategies.fedavg import FedAvg
from server.strategies.feddyn import FedDyn
from server.strategies.fednova import FedNova
from server.strategies.median import Median
from server.strategies.private_mean import PrivateMean
from server.strategies.scaffold import Scaffold
from server.strategies.server_step import FedAdagrad, FedAdam, FedAvgM, FedYogi, ServerStep
from server.strategies.settings import StrategySettings
from server.strategies.trimmed_mean import TrimmedMean

PLAIN: Mapping[str, Callable[[], Strategy]] = {
    "fedavg": FedAvg,
    "fednova": FedNova,
    "scaffold": Scaffold,
    "feddyn": FedDyn,
    "clipped": ClippedMean,
    "trimmed-mean": TrimmedMean,
    "median": Median,
}

SERVER_STEPS: Mapping[str, type[ServerStep]] = {
    "fedavgm": FedAvgM,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
}


def make_strategy(
    settings: StrategySettings, first: State | None = None, noise_key: Path | None = None
) -> Strategy:
    """Return a strategy for a whole run.

    Args:
        settings: Name it.
        first: What hospitals return, as it is in the model that the run begins or goes on with;
            some strategies of Flower's interface are made with it.
        noise_key: File with the secret of the noise of ``--dp site``; None: it adds none.

    Raises:
        BadInput: A strategy of Flower's interface cannot be found or made.
    """
    name = settings.strategy
    if noise_key is not None:
        mean: Strategy = PrivateMean(settings.dp_quantile, noise_key)
        return SERVER_STEPS[name](settings.step, mean) if name in SERVER_STEPS else mean
    if name in PLAIN:
        return PLAIN[name]()
    mean = FedAvg() if settings.average == "weighted" else PLAIN[settings.average]()
    if name in SERVER_STEPS:
        return SERVER_STEPS[name](settings.step, mean)
    from server.strategies.flower.load import load_strategy

    return load_strategy(settings, mean, first or {})
