"""How replies become the next model; one class each, alike in shape.

FedAvg adds each reply as it arrives. The others need all of them at once and read them from the
spool, tensor by tensor.
"""

import math
import statistics
from collections.abc import Callable, Collection
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from common.wire import State
from server.rounds.checks import update_norm
from server.run.spool import Spool
from server.strategies.aggregation import FedAvg, check_terms, is_float

StrategyName = Literal["fedavg", "clipped", "trimmed-mean", "median"]

TRIMMED = 0.2
"""Share of the hospitals that the trimmed mean leaves out at either end."""

Combine = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


class Strategy(Protocol):
    """Combines the replies of one attempt at a round; the spool has every reply that is added."""

    def add(self, name: str, state: State, examples: int) -> None:
        """Take in a reply.

        Raises:
            ValueError: It cannot be averaged; nothing has changed then.
        """

    def combine(self, without: Collection[str]) -> State:
        """Return the next model of all replies but some; at least one remains."""


class WeightedMean:
    """FedAvg (McMahan et al., AISTATS 2017): the mean weighted by examples."""

    def __init__(self, before: State, spool: Spool) -> None:
        self._mean = FedAvg(before)
        self._spool = spool
        self._examples: dict[str, int] = {}

    def add(self, name: str, state: State, examples: int) -> None:
        """Add a reply to the running sum."""
        self._mean.add(name, state, examples)
        self._examples[name] = examples

    def combine(self, without: Collection[str]) -> State:
        """Take back what is to be left out and return the mean."""
        for name in without:
            self._mean.remove(name, self._spool.get(name), self._examples[name])
        return self._mean.mean()


class ClippedMean:
    """FedAvg of updates that are shortened to the median of their norms.

    Sun et al., "Can You Really Backdoor Federated Learning?", 2019, section 4.1, with the median
    in the place of a threshold to be guessed.
    """

    def __init__(self, before: State, spool: Spool) -> None:
        self._before = before
        self._spool = spool
        self._examples: dict[str, int] = {}
        self._norms: dict[str, float] = {}

    def add(self, name: str, state: State, examples: int) -> None:
        """Note the norm of a reply's update."""
        check_terms(state, examples)
        check_terms(self._before, examples)  # what is shortened lies between the two
        self._norms[name] = update_norm(self._before, state)
        self._examples[name] = examples

    def combine(self, without: Collection[str]) -> State:
        """Return the mean of the shortened updates."""
        names = [name for name in self._norms if name not in without]
        bound = statistics.median(self._norms[name] for name in names)
        mean = FedAvg(self._before)
        for name in names:
            factor = min(1.0, bound / self._norms[name]) if self._norms[name] else 1.0
            state = self._spool.get(name)
            mean.add(name, _shortened(self._before, state, factor), self._examples[name])
        return mean.mean()


def _shortened(before: State, after: State, factor: float) -> State:
    """Return ``before`` and a part of the way to ``after``, in float64; integers of ``after``."""
    return {
        name: before[name] + factor * (array.astype(np.float64) - before[name])
        if is_float(array)
        else array
        for name, array in after.items()
    }


class CoordinateWise:
    """Combines each weight by itself over the hospitals, every hospital counting the same.

    Yin et al., "Byzantine-Robust Distributed Learning", ICML 2018, definitions 1 and 2.

    Args:
        before: The model that was sent out.
        spool: Holds the replies.
        combine: Takes the hospitals' values, float64, n x ..., sorted along the first axis.
    """

    def __init__(self, before: State, spool: Spool, combine: Combine) -> None:
        self._before = before
        self._spool = spool
        self._combine = combine
        self._names: list[str] = []

    def add(self, name: str, state: State, examples: int) -> None:
        """Note that there is a reply."""
        del state, examples
        self._names.append(name)

    def combine(self, without: Collection[str]) -> State:
        """Return the combination, weight by weight; integers are rounded."""
        names = [name for name in self._names if name not in without]
        combined: State = {}
        for tensor, values in self._spool.tensors(names):
            result = self._combine(np.sort(values.astype(np.float64), axis=0))
            like = self._before[tensor]
            combined[tensor] = np.asarray(result if is_float(like) else np.rint(result), like.dtype)
        return combined


def trimmed_mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the mean without the smallest and the largest; see :data:`TRIMMED`."""
    cut = min(math.ceil(TRIMMED * len(values)), (len(values) - 1) // 2)
    return _array(values[cut : len(values) - cut].mean(axis=0))


def median(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the median."""
    return _array(np.median(values, axis=0))


def _array(values: Any) -> npt.NDArray[np.float64]:
    return np.asarray(values, np.float64)


def make_strategy(name: StrategyName, before: State, spool: Spool) -> Strategy:
    """Return a strategy for one attempt at a round."""
    if name == "fedavg":
        return WeightedMean(before, spool)
    if name == "clipped":
        return ClippedMean(before, spool)
    return CoordinateWise(before, spool, median if name == "median" else trimmed_mean)
