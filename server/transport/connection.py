"""One hospital's connection through Flower: what it is asked, and how it is sent.

Beside ``service.py``, the only file under ``server`` that imports Flower.
"""

import logging
from collections.abc import Callable
from threading import Lock, Thread
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from flwr.common import (
    FitIns,
    GetParametersIns,
    GetPropertiesIns,
    Parameters,
    serde,
)
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage
from flwr.server.superlink.fleet.grpc_bidi.grpc_bridge import InsWrapper, ResWrapper
from flwr.server.superlink.fleet.grpc_bidi.grpc_client_proxy import GrpcClientProxy

from common.protocol import (
    REPLY,
    Farewell,
    Fetch,
    Greeting,
    Hello,
    Identity,
    Instruction,
    Message,
    Rejection,
    Reply,
    parse_message,
)
from server.rounds.ask import SiteLost

log = logging.getLogger(__name__)

T = TypeVar("T")

WORD_SECONDS = 5.0
"""How long a hospital may take to answer a word that asks for no work."""

NOT_SENT = ClientMessage()
"""Stands for the answer to what was not sent."""


class FlowerSite:
    """A hospital behind a connection of Flower's; see :class:`server.members.roster.Connected`."""

    def __init__(self, proxy: GrpcClientProxy, greeting: Greeting, hello: Hello) -> None:
        self.connection = proxy
        self.greeting = greeting
        self.hello = hello
        self.backbone = hello.backbone
        self._line = Lock()  # Flower's bridge takes one request at a time

    def ask(self, sealed: object, timeout: float) -> Reply:
        """Send what :func:`seal` made and wait for the reply."""
        assert isinstance(sealed, Sealed)  # noqa: S101 - seal made it
        deadline = monotonic() + timeout  # its line may be busy first

        def request() -> ResWrapper:
            left = max(deadline - monotonic(), 0.1)
            # The bridge hands it on to the service, and does not look at it.
            return self.connection.bridge.request(InsWrapper(sealed, left))  # type: ignore[arg-type]

        answer = self._call(request, timeout)
        if answer.client_message is NOT_SENT:
            raise SiteLost("its turn to be sent the weights did not come")
        return parse_message(REPLY, answer.client_message.fit_res.metrics["message"].string)

    def fetch(self, identity: Identity, timeout: float) -> bytes:
        """Return the weights that go with a reply."""
        ins = GetParametersIns(config_of(Fetch(identity=identity)))
        result = self._call(
            lambda: self.connection.get_parameters(ins, max(timeout, 0.1), None), timeout
        )
        tensors: list[bytes] = result.parameters.tensors
        return tensors[0] if len(tensors) == 1 else b""

    def tell(self, identity: Identity, reason: str) -> None:
        """Tell why its reply is not averaged."""
        verdict = Rejection(identity=identity, reason=reason[:500])
        Thread(target=self.answers, args=(verdict,), daemon=True).start()

    def answers(self, message: Message) -> bool:
        """Say something that asks for no work; return whether an answer came."""
        try:
            self._call(
                lambda: self.connection.get_properties(
                    GetPropertiesIns(config_of(message)), WORD_SECONDS, None
                ),
                WORD_SECONDS,
            )
        except SiteLost as lost:
            log.debug("%s: %s", self.hello.site, lost)
            return False
        return True

    @property
    def busy(self) -> bool:
        """Whether something is being asked of it."""
        return self._line.locked()

    def part(self, farewell: Farewell) -> None:
        """Say the last words and close the connection."""
        self.answers(farewell)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.connection.bridge.close()

    def _call(self, request: Callable[[], T], timeout: float) -> T:
        if not self._line.acquire(timeout=max(timeout, 0.1)):
            raise SiteLost("it is still busy")
        try:
            return request()
        except Exception as error:  # noqa: BLE001 - whatever Flower raises, the hospital is lost
            raise SiteLost(f"no reply ({type(error).__name__})") from None
        finally:
            self._line.release()


def config_of(message: Message) -> dict[str, Any]:
    """Return a message as it stands in a call of Flower's."""
    return {"message": message.model_dump_json()}


class Sealed(NamedTuple):
    """An instruction and its weights, made once for all hospitals.

    Attributes:
        instruction: What is to be done.
        data: Both, as they travel.
    """

    instruction: Instruction
    data: bytes


def seal(instruction: Instruction, blob: bytes) -> object:
    """Return an instruction and its weights as they travel."""
    ins = FitIns(Parameters([blob], "safetensors"), config_of(instruction))
    return Sealed(
        instruction, ServerMessage(fit_ins=serde.fit_ins_to_proto(ins)).SerializeToString()
    )
