"""Strategies of Flower's first interface, ``flwr.server.strategy``: lists of arrays."""

from collections.abc import Sequence
from typing import NoReturn

from flwr.common import (
    Code,
    FitRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.criterion import Criterion
from flwr.server.strategy import FedAvgM, FedOpt, FedProx
from flwr.server.strategy import Strategy as FlowerStrategy

from common.state import State
from server.strategies.base import Strategy
from server.strategies.flower.adapted import Adapted, Returned, Unusable


class Legacy(Adapted):
    """One of them at work; see :class:`Adapted`."""

    interface = FlowerStrategy
    proximal = FedProx

    def __init__(self, called: str, strategy: FlowerStrategy, mean: Strategy) -> None:
        strategy.initialize_parameters(_Manager({}))
        super().__init__(called, strategy, mean)
        self._strategy = strategy

    def aggregate(self, number: int, before: State, replies: Sequence[Returned]) -> State:
        """Call ``configure_fit`` and ``aggregate_fit``."""
        clients = {reply.name: _Client(reply) for reply in replies}
        self._strategy.configure_fit(number, initial_parameters(before), _Manager(clients))
        if isinstance(self._strategy, FedOpt):  # it goes on from what it made, in float64
            self._strategy.current_weights = [array.copy() for array in before.values()]
        if isinstance(self._strategy, FedAvgM):
            self._strategy.initial_parameters = initial_parameters(before)
        results: list[tuple[ClientProxy, FitRes]] = [
            (
                clients[reply.name],
                FitRes(
                    Status(Code.OK, ""),
                    initial_parameters(reply.parameters),
                    reply.examples,
                    {**reply.metrics},
                ),
            )
            for reply in replies
        ]
        made, _ = self._strategy.aggregate_fit(number, results, [])
        if not isinstance(made, Parameters):
            raise Unusable(
                f"its aggregate_fit returned {type(made).__name__} where a round needs Parameters"
            )
        arrays = parameters_to_ndarrays(made)
        if len(arrays) != len(before):
            raise Unusable(
                f"its aggregate_fit returned {len(arrays)} arrays; return as many as it was given, "
                f"{len(before)}"
            )
        return dict(zip(before, arrays, strict=True))


def initial_parameters(state: State) -> Parameters:
    """Return a state as Flower sends it, in the order of its names."""
    return ndarrays_to_parameters(list(state.values()))


class _Client(ClientProxy):
    """A hospital that has answered already."""

    def __init__(self, reply: Returned) -> None:
        super().__init__(reply.name)
        self.node_id = reply.node_id

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError("a strategy cannot ask the hospitals itself")

    get_properties = get_parameters = fit = evaluate = reconnect = _refuse


class _Manager(ClientManager):
    """The hospitals of a round; never waits for more."""

    def __init__(self, clients: dict[str, ClientProxy] | dict[str, _Client]) -> None:
        self._clients: dict[str, ClientProxy] = {**clients}

    def num_available(self) -> int:
        return len(self._clients)

    def register(self, client: ClientProxy) -> bool:
        del client
        return False

    def unregister(self, client: ClientProxy) -> None:
        del client

    def all(self) -> dict[str, ClientProxy]:
        return self._clients

    def wait_for(self, num_clients: int, timeout: int = 0) -> bool:
        del num_clients, timeout
        return True

    def sample(
        self,
        num_clients: int,
        min_num_clients: int | None = None,
        criterion: Criterion | None = None,
    ) -> list[ClientProxy]:
        del min_num_clients
        fitting = (c for c in self._clients.values() if criterion is None or criterion.select(c))
        return list(fitting)[:num_clients]
