"""One hospital's connection: our messages in Flower's, with the weights beside them."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Semaphore, Thread
from time import monotonic
from weakref import WeakKeyDictionary

from flwr.proto.transport_pb2 import ClientMessage, Scalar, ServerMessage

from common.certificates import Peer
from common.envelope import Envelope, enclosed
from common.message import Identity, Message, ProtocolError, parse_message
from common.protocol import (
    HELLO,
    PROGRESS,
    REPLY,
    Check,
    Farewell,
    Fetch,
    Greeting,
    Hello,
    Instruction,
    Progress,
    Rejection,
    Reply,
)
from common.secure.messages import SECURE_ANSWER, SecureAnswer, SecureCall
from common.wire import Blob
from server.rounds.ask import TRANSFER_SECONDS, TRANSFERS, HospitalLost, Weights
from server.transport.stream import Stream

log = logging.getLogger(__name__)

GREETING_SECONDS = 10.0
"""How long a client may take to say hello."""

ANSWER_SECONDS = 5.0
"""How long a hospital may take to answer a message that asks for no work."""

PROGRESS_BURST = 10
"""How often a hospital may tell its progress beyond once a second; an honest one does so every two
seconds, but a slow line may deliver several at once."""


TO_WEIGHTS = (
    ServerMessage.DESCRIPTOR.fields_by_name["fit_ins"].number,
    ServerMessage.FitIns.DESCRIPTOR.fields_by_name["parameters"].number,
)
"""Fields that lead to the weights of an instruction."""


class Outbox:
    """What goes out to many hospitals: serialised once, and sent to a few of them at a time."""

    def __init__(self) -> None:
        self._places = Semaphore(TRANSFERS)
        self._lock = Lock()
        self._made: WeakKeyDictionary[Weights, tuple[Instruction, bytes]] = WeakKeyDictionary()

    def serialised(self, instruction: Instruction, weights: Weights) -> bytes:
        """Return an instruction and its weights as they travel."""
        with self._lock:
            known, data = self._made.get(weights, (None, b""))
            if known != instruction:
                ins = ServerMessage.FitIns(config=_config(instruction))
                message = ServerMessage(fit_ins=ins).SerializeToString()
                data = enclosed(message, TO_WEIGHTS, weights.blob)
                self._made[weights] = instruction, data
            return data

    @contextmanager
    def place(self, timeout: float) -> Iterator[None]:
        """Wait for one of the places from which weights are sent, and hold it for the block.

        Raises:
            HospitalLost: There is none within ``timeout`` seconds.
        """
        if not self._places.acquire(timeout=max(0.0, timeout)):
            raise HospitalLost("its turn to be sent the weights did not come")
        try:
            yield
        finally:
            self._places.release()


def greet(stream: Stream, greeting: Greeting) -> Hello | Check:
    """Greet the client at the other end of a new stream; return its answer.

    Raises:
        HospitalLost: It does not answer in time.
        ProtocolError: Its answer is neither a hello nor a check.
    """
    stream.send(properties_of(greeting), GREETING_SECONDS)
    answer = stream.receive(GREETING_SECONDS).message
    return parse_message(HELLO, answer.get_properties_res.properties["message"].string)


class FlowerConnection:
    """A hospital at the other end of a stream; see :class:`server.members.roster.OpenConnection`.

    Args:
        stream: To the hospital.
        peer: What the handshake has proven; None: there was none.
        hello: What the hospital said of itself.
        outbox: Shared by all connections.
        may_stay: Whether the hospital of a connection may still take part.
    """

    def __init__(
        self,
        stream: Stream,
        peer: Peer | None,
        hello: Hello,
        outbox: Outbox,
        may_stay: Callable[["FlowerConnection"], bool],
    ) -> None:
        self.peer = peer
        self.hello = hello
        self.backbone = hello.backbone
        self.holds = hello.holds
        self.own = set(hello.own)
        self._stream = stream
        self._outbox = outbox
        self._may_stay = may_stay
        self._turn = Lock()  # a stream takes one message at a time

    def ask(
        self,
        instruction: Instruction,
        weights: Weights,
        timeout: float,
        follow: Callable[[Progress], object],
    ) -> Reply:
        """Send an instruction with its weights and wait for the reply."""
        deadline = monotonic() + timeout
        with self._own_turn(timeout):
            with self._outbox.place(deadline - monotonic()):
                if not self._may_stay(self):  # by now: it may have waited for its place for long
                    raise HospitalLost("it may not take part any more")
                data = self._outbox.serialised(instruction, weights)
                self._stream.send(data, min(TRANSFER_SECONDS, deadline - monotonic()))
                del data
            answer = self._reply(instruction.identity, deadline, follow)
        return parse_message(REPLY, answer.fit_res.metrics["message"].string)

    def fetch(self, identity: Identity, timeout: float) -> Blob:
        """Return the weights that go with a reply."""
        ins = ServerMessage.GetParametersIns(config=_config(Fetch(identity=identity)))
        data = ServerMessage(get_parameters_ins=ins).SerializeToString()
        return self._exchange(data, timeout).weights

    def secure(self, call: SecureCall, timeout: float) -> SecureAnswer:
        """Ask for a step of a secure sum and wait for the answer."""
        answer = self._exchange(properties_of(call), timeout).message
        text = answer.get_properties_res.properties["message"].string
        return parse_message(SECURE_ANSWER, text)

    def tell(self, identity: Identity, reason: str) -> None:
        """Tell why its reply is not averaged."""
        rejection = Rejection(identity=identity, reason=reason[:500])
        Thread(target=self.answers, args=(rejection,), daemon=True).start()

    def answers(self, message: Message) -> bool:
        """Send a message that asks for no work; return whether an answer came."""
        try:
            self._exchange(properties_of(message), ANSWER_SECONDS)
        except HospitalLost as lost:
            log.debug("%s: %s", self.hello.site, lost)
            return False
        return True

    @property
    def busy(self) -> bool:
        """Whether an answer of the hospital is being waited for."""
        return self._turn.locked()

    @property
    def closed(self) -> bool:
        """Whether the hospital is gone, from the moment on in which an answer fails to come."""
        return self._stream.closed

    def part(self, farewell: Farewell) -> None:
        """Say farewell and close the connection, at once if the hospital does not answer."""
        if self.answers(farewell):
            self.close()
        else:
            self._stream.cancel()

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def _reply(
        self, identity: Identity, deadline: float, follow: Callable[[Progress], object]
    ) -> ClientMessage:
        """Return what comes after all that the hospital tells of its progress.

        Raises:
            HospitalLost: It does not come before the deadline.
            ProtocolError: What is told of the progress is of another instruction, cannot be
                understood or comes too often; the stream, which may hold more, is closed then.
        """
        start = monotonic()
        answer = self._stream.receive(deadline - start).message
        told = 0
        while answer.WhichOneof("msg") == "get_properties_res":
            told += 1
            try:
                if told > PROGRESS_BURST + monotonic() - start:
                    raise ProtocolError("its progress too often")
                text = answer.get_properties_res.properties["message"].string
                progress = parse_message(PROGRESS, text)
                if progress.identity != identity:
                    raise ProtocolError("with the progress of another instruction")
            except ProtocolError:
                self._stream.cancel()
                raise
            follow(progress)
            answer = self._stream.receive_another(deadline - monotonic()).message
        return answer

    def _exchange(self, data: bytes, timeout: float) -> Envelope[ClientMessage]:
        deadline = monotonic() + timeout
        with self._own_turn(timeout):
            self._stream.send(data, deadline - monotonic())
            return self._stream.receive(deadline - monotonic())

    @contextmanager
    def _own_turn(self, timeout: float) -> Iterator[None]:
        if not self._turn.acquire(timeout=max(0.0, timeout)):
            raise HospitalLost("it is still busy")
        try:
            yield
        finally:
            self._turn.release()


def properties_of(message: Message) -> bytes:
    """Return a message outside the rounds as it travels."""
    ins = ServerMessage.GetPropertiesIns(config=_config(message))
    return ServerMessage(get_properties_ins=ins).SerializeToString()


def _config(message: Message) -> dict[str, Scalar]:
    return {"message": Scalar(string=message.model_dump_json())}
