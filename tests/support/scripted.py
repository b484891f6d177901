"""A server that plays a script, for clients."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from flwr.proto.transport_pb2 import Scalar, ServerMessage
from flwr.proto.transport_pb2_grpc import (
    FlowerServiceServicer,
    add_FlowerServiceServicer_to_server,
)

from common.message import Message
from common.protocol import Farewell, Greeting, Hello
from experiments.launch.local import free_port
from tests.support.messages import HELLO


class Somebody:
    name, device, precision = HELLO.site, "cpu", "fp32"
    scored = None

    def greet(self, _greeting: Greeting) -> Hello:
        return HELLO

    def forget_scores(self) -> None:
        pass


SOMEBODY = Somebody()


def call(message: Message) -> ServerMessage:
    config = {"message": Scalar(string=message.model_dump_json())}
    return ServerMessage(get_properties_ins=ServerMessage.GetPropertiesIns(config=config))


GREETING = call(Greeting(run="r", seed=0))
Script = Callable[[int, Iterator[Any]], Iterator[ServerMessage]]


class Scripted(FlowerServiceServicer):
    """Plays a script on each connection; it is told how many there were before."""

    def __init__(self, script: Script) -> None:
        self.calls = 0
        self._script = script

    def Join(  # noqa: N802 - Flower's name
        self, request_iterator: Iterator[Any], context: object
    ) -> Iterator[ServerMessage]:
        del context
        self.calls += 1
        yield from self._script(self.calls - 1, request_iterator)


@contextmanager
def serving(script: Script) -> Iterator[tuple[Scripted, str]]:
    """Run a server that plays a script; yield it and its address."""
    server = grpc.server(ThreadPoolExecutor(4))
    service = Scripted(script)
    add_FlowerServiceServicer_to_server(service, server)
    address = f"127.0.0.1:{free_port()}"
    server.add_insecure_port(address)
    server.start()
    try:
        yield service, address
    finally:
        server.stop(None)


def says_goodbye(number: int, answers: Iterator[Any]) -> Iterator[ServerMessage]:
    """Greet, and say that the run is over."""
    del number
    yield GREETING
    next(answers)
    yield call(Farewell(outcome="finished"))
    next(answers)
