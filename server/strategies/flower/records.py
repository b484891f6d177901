"""Strategies of Flower's newer interface, ``flwr.serverapp.strategy``: messages with records."""

from collections.abc import Iterable, Sequence
from typing import NoReturn

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvgM, FedProx
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from flwr.supercore.task_identity import TaskIdentity

from common.state import State
from server.strategies.base import Strategy
from server.strategies.flower.adapted import Adapted, Returned, Unusable

LOOKS = 2
"""How often Flower's strategies look who is there before they begin to wait for more."""

ENOUGH = 10_000
"""More hospitals than a strategy may wait for."""


class Records(Adapted):
    """One of them at work; see :class:`Adapted`."""

    interface = FlowerStrategy
    proximal = FedProx

    def __init__(self, called: str, strategy: FlowerStrategy, mean: Strategy) -> None:
        super().__init__(called, strategy, mean)
        self._strategy = strategy
        # A process of Flower's has them before its strategy makes a message.
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1

    def aggregate(self, number: int, before: State, replies: Sequence[Returned]) -> State:
        """Call ``configure_train`` and ``aggregate_train``."""
        grid = _Grid([reply.node_id for reply in replies])
        if isinstance(self._strategy, FedAvgM):  # it goes on from what it made
            self._strategy.current_arrays = _record(before)
        messages = self._strategy.configure_train(number, _record(before), ConfigRecord(), grid)
        for _ in messages:  # it may be a generator, and does nothing before it is read
            pass
        made, _ = self._strategy.aggregate_train(number, [_message(number, r) for r in replies])
        if not isinstance(made, ArrayRecord):
            raise Unusable(
                f"its aggregate_train returned {type(made).__name__} where a round needs an "
                "ArrayRecord"
            )
        if made.keys() != before.keys():
            odd = sorted(made.keys() ^ before.keys())[0]
            raise Unusable(
                f"its aggregate_train returned {len(made)} arrays and was given {len(before)}; "
                f"{odd} is not in both: return all under the names that they had"
            )
        return {name: array.numpy() for name, array in made.items()}


def _record(state: State) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in state.items()})


def _message(number: int, reply: Returned) -> Message:
    """Return a hospital's reply, with the records and keys of Flower's own clients."""
    metrics = MetricRecord({"num-examples": reply.examples, **reply.metrics})
    content = RecordDict({"arrays": _record(reply.parameters), "metrics": metrics})
    asked = Message(RecordDict(), reply.node_id, MessageType.TRAIN, group_id=str(number))
    return Message(content, reply_to=asked)


class _Grid(Grid):
    """The hospitals of a round, which have answered already.

    Flower's strategies look again each second until there are as many nodes as they want. From the
    third look on there are more than enough; whom a strategy chooses changes nothing.
    """

    def __init__(self, node_ids: list[int]) -> None:
        self._node_ids = node_ids
        self._looks = 0

    def get_node_ids(self) -> Iterable[int]:
        self._looks += 1
        return self._node_ids if self._looks <= LOOKS else [*self._node_ids, *range(ENOUGH)]

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError("a strategy cannot ask the hospitals itself")

    set_run = create_message = push_messages = pull_messages = send_and_receive = _refuse

    @property
    def run(self) -> NoReturn:
        self._refuse()
