"""What a strategy is, what it is given, and the weighted mean that several share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from common.options import Training
from common.state import State, is_float

AT_ONCE = 2
"""States that a mean adds at once, so that a tensor's sum stays in the processor's cache."""


class UpdateInfo(NamedTuple):
    """What is known of an update without reading it.

    Attributes:
        examples: Images that it was trained on, at least 1.
        norm: Euclidean norm of the change of the weights.
        chance: Of the hospital to be in the round, beside that of the others; 1: all the same.
        loss: Mean training loss.
        lr: Learning rate of the training; None: the round's.
    """

    examples: int
    norm: float
    chance: float = 1.0
    loss: float | None = None
    lr: float | None = None

    @property
    def weight(self) -> float:
        """By how much the update counts in a weighted mean.

        Whoever is rarely asked counts for more when it is: Horvitz and Thompson, "A Generalization
        of Sampling Without Replacement From a Finite Universe", JASA 1952.
        """
        return self.examples / self.chance


class Update(NamedTuple):
    """What a hospital returned.

    Attributes:
        name: The hospital's.
        info: Examples and norm.
        weights: After training, not their change; finite.
    """

    name: str
    info: UpdateInfo
    weights: State


class Updates(Protocol):
    """The good updates of one attempt at a round, at least one, in the order of their names.

    Attributes:
        infos: By the hospital's name, sorted.
    """

    infos: Mapping[str, UpdateInfo]

    def __iter__(self) -> Iterator[Update]:
        """Yield the updates; their arrays cannot be written, and hold until the next round's."""

    def columns(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Yield each tensor of the weights, by name: n hospitals x its shape."""


class RoundInfo(NamedTuple):
    """What a strategy is told of a round.

    Attributes:
        number: Of the round, from 1.
        training: What hospitals were told to do in it.
        hospitals: How many take part in the run, in this round or another.
    """

    number: int
    training: Training
    hospitals: int


class Strategy(ABC):
    """How updates become the next model; lives as long as the run."""

    @abstractmethod
    def combine(self, before: State, updates: Updates, about: RoundInfo) -> State:
        """Return what follows ``before``: the same names, dtypes and shapes.

        Args:
            before: What was sent out: the tensors that hospitals train and return.
            updates: What came back.
            about: The round.
        """

    def sends(self, before: State) -> dict[str, State]:
        """Return the named states that go out beside the weights ``before``."""
        del before
        return {}

    def state_dict(self) -> State:
        """Return what the strategy remembers between rounds; kept with the checkpoint."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Go on from what :meth:`state_dict` returned."""
        if state:
            raise ValueError(f"{type(self).__name__} remembers nothing between rounds")


def weighted_mean(like: State, terms: Iterable[tuple[State, float]]) -> State:
    """Return the mean of states, each with its weight, in the names and dtypes of ``like``.

    Floats are summed in float64, one state after the other, and cast back. Integers, BatchNorm's
    ``num_batches_tracked``, are the maximum: a mean would be none that was ever counted.

    Args:
        like: Says what the states hold.
        terms: At least one; read :data:`AT_ONCE` at a time.
    """
    sums = {name: np.zeros(array.shape) for name, array in like.items() if is_float(array)}
    scratch = np.empty(max((values.size for values in sums.values()), default=0))
    highest: State = {}
    total = 0.0
    terms = iter(terms)
    while block := list(islice(terms, AT_ONCE)):
        for name, values in sums.items():
            term = scratch[: values.size].reshape(values.shape)
            for state, weight in block:
                np.copyto(term, state[name])  # a product that converts takes longer
                term *= weight
                values += term
        for state, weight in block:
            total += weight
            for name in state.keys() - sums.keys():
                highest[name] = np.maximum(highest.get(name, state[name]), state[name])
        block.clear()  # before the next ones are read
    mean = {name: values / total for name, values in sums.items()} | highest
    return {name: np.asarray(mean[name], array.dtype) for name, array in like.items()}


def mean_by_examples(before: State, updates: Updates) -> State:
    """Return the mean of the updates' weights, weighted by their examples."""
    return weighted_mean(before, ((update.weights, update.info.weight) for update in updates))


def part_of_the_way(before: State, after: State, factor: float) -> State:
    """Return ``before`` and ``factor`` times the change to ``after``, in float64; ``after`` for 1.

    Integers are those of ``after``.
    """
    if factor == 1:
        return after  # and not what rounding makes of it
    return {
        name: before[name] + factor * (array.astype(np.float64) - before[name])
        if is_float(array)
        else array
        for name, array in after.items()
    }
