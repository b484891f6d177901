"""What Flower's two interfaces have in common: parameters go to a strategy, a model comes back."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from common.errors import BadInput, FedCXRError
from common.state import State, is_float, is_parameter
from server.strategies.base import RoundInfo, Strategy, Update, UpdateInfo, Updates
from server.strategies.flower.remembered import Memory, NotKept


class Unusable(Exception):  # noqa: N818 - a verdict, not a fault
    """What a strategy returned is no model; the message says why."""


class Returned(NamedTuple):
    """What a hospital returned, as a strategy of Flower's knows it.

    Attributes:
        name: The hospital's.
        info: Of its update.
        parameters: After training, in the order of the model's names.
    """

    name: str
    info: UpdateInfo
    parameters: State

    @property
    def examples(self) -> int:
        """Images that count; more than there are, if the hospital is rarely asked."""
        return max(1, round(self.info.weight))

    @property
    def metrics(self) -> dict[str, float]:
        """The mean training loss, by the name that Flower's own strategies look for."""
        return {} if self.info.loss is None else {"train_loss": self.info.loss}

    @property
    def node_id(self) -> int:
        """A number for the hospital, the same in each round and run."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:8]) >> 1


class Adapted(Strategy):
    """A strategy of Flower's for the parameters, and an average for BatchNorm's statistics.

    Args:
        called: ``package.module:Class``.
        strategy: An instance of ``interface``.
        mean: Averages all that does not follow the optimiser.

    Attributes:
        interface: Flower's base class.
        proximal: Flower's FedProx, whose only part is in what it sends to hospitals.
    """

    interface: ClassVar[type]
    proximal: ClassVar[type]

    def __init__(self, called: str, strategy: object, mean: Strategy) -> None:
        self._called = called
        self._mean = mean
        self._memory = Memory(called, strategy, self.interface)

    @abstractmethod
    def aggregate(self, number: int, before: State, replies: Sequence[Returned]) -> State:
        """Let the strategy make the next parameters, by their names.

        Args:
            number: Of the round.
            before: The parameters that were sent.
            replies: At least one, in the order of the hospitals' names.

        Raises:
            Unusable: It made none.
        """

    def combine(self, before: State, updates: Updates, about: RoundInfo) -> State:
        """Return what the strategy makes of the parameters, and the mean of all else.

        Raises:
            FedCXRError: The strategy raised an error, or returned no such model.
        """
        sent = {name: a for name, a in before.items() if is_parameter(name) and is_float(a)}
        replies = [  # copied, or the file of each hospital would stay open
            Returned(name, info, {tensor: weights[tensor].copy() for tensor in sent})
            for name, info, weights in updates
        ]
        try:
            made = self.aggregate(about.number, sent, replies)
            after = {name: _fitting(name, made[name], like) for name, like in sent.items()}
        except Exception as error:
            why = str(error) if isinstance(error, Unusable) else in_short(error)
            raise FedCXRError(
                f"round {about.number}: --strategy {self._called}: {why}; no model was sent: mend "
                "the strategy and go on with --resume"
            ) from error
        rest = {name: array for name, array in before.items() if name not in sent}
        if rest:
            after |= self._mean.combine(rest, _Rest(updates, rest), about)
        return {name: after[name] for name in before}

    def state_dict(self) -> State:
        """Return the attributes of the strategy that a new one would not have."""
        return self._memory.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Set the attributes.

        Raises:
            BadInput: The strategy had changed what no checkpoint keeps.
        """
        try:
            self._memory.load_state_dict(state)
        except NotKept as names:
            raise BadInput(
                f"--resume: --strategy {self._called} changed {names}, which no checkpoint keeps, "
                "so that the run would not go on as it was; start another one with --init and "
                "the last model of this one"
            ) from None


class _Rest:
    """Updates without what the strategy was given; see :class:`server.strategies.base.Updates`."""

    def __init__(self, updates: Updates, names: Mapping[str, object]) -> None:
        self.infos = updates.infos
        self._updates = updates
        self._names = names

    def __iter__(self) -> Iterator[Update]:
        for name, info, weights in self._updates:
            yield Update(name, info, {tensor: weights[tensor] for tensor in self._names})

    def columns(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Yield each tensor that is left, by name: n hospitals x its shape."""
        return (column for column in self._updates.columns() if column[0] in self._names)


def in_short(error: BaseException) -> str:
    """Return an error's type and the first line of its text."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _fitting(name: str, array: npt.NDArray[Any], like: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a tensor in the dtype that was sent.

    Raises:
        Unusable: It has another shape.
    """
    if array.shape != like.shape:
        raise Unusable(
            f"it returned {name} with shape {array.shape}; return it with that of the parameters "
            f"that it was given, {like.shape}"
        )
    with np.errstate(over="ignore"):  # the round looks for numbers that are not finite
        return np.array(array, like.dtype)
