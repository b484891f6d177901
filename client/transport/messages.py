"""The client's side of Flower's messages: what the server asks, and what the hospital answers.

See docs/decisions/0001-flower-transport.md and 0002-flower-service.md. With
``client.transport.connection`` it is all that imports Flower under ``client``.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from threading import Timer
from typing import Any

from flwr.proto.transport_pb2 import (
    ClientMessage,
    Code,
    Scalar,
    ServerMessage,
    Status,
)

from client.cancellation import Cancellation
from client.hospital import Hospital
from client.progress import Phase, now_and_then
from client.state import ClientState, Standing
from common.envelope import Envelope, enclosed, opened
from common.errors import BadInput
from common.protocol import (
    CALL,
    FETCH,
    INSTRUCTION,
    Check,
    Farewell,
    Greeting,
    Instruction,
    Progress,
    ProtocolError,
    Rejection,
    Reply,
    parse_message,
)
from common.runtime.guard import end_process
from common.runtime.logs import fields
from common.secure.messages import (
    ANY_CALL,
    ConfirmCall,
    MaskCall,
    Masked,
    RevealCall,
    SecureCall,
    ShareCall,
)
from common.wire import Blob, fingerprint

log = logging.getLogger(__name__)

SAME_VERSION = "the server sent {}; run the same version of FedCXR on both sides"

OK = Status(code=Code.OK)

INSTRUCTED = (
    ServerMessage.DESCRIPTOR.fields_by_name["fit_ins"].number,
    ServerMessage.FitIns.DESCRIPTOR.fields_by_name["parameters"].number,
)
ANSWERED = (
    ClientMessage.DESCRIPTOR.fields_by_name["get_parameters_res"].number,
    ClientMessage.GetParametersRes.DESCRIPTOR.fields_by_name["parameters"].number,
)
"""Fields that lead to the weights of an instruction, and of an answer."""

GRACE_SECONDS = 60.0
"""After the deadline of a round, until a client that is stuck ends its process."""


def message_of(data: bytes) -> Envelope[ServerMessage]:
    """Return a message as it travelled."""
    if (parts := opened(data, INSTRUCTED)) is not None:
        return Envelope(ServerMessage.FromString(parts[0]), parts[1])
    message = ServerMessage.FromString(data)
    tensors = message.fit_ins.parameters.tensors
    return Envelope(message, tensors[0] if len(tensors) == 1 else b"")


def serialised(answer: Envelope[ClientMessage]) -> bytes:
    """Return an answer as it travels."""
    message = answer.message.SerializeToString()
    return enclosed(message, ANSWERED, answer.weights) if answer.weights else message


def first_of(message: ServerMessage) -> Greeting | Farewell:
    """Return a server's first message.

    Raises:
        BadInput: It is another, or of another protocol.
    """
    try:
        if message.WhichOneof("msg") == "get_properties_ins":
            match parse_message(CALL, _text(message.get_properties_ins.config)):
                case Greeting() | Farewell() as first:
                    return first
        raise ProtocolError("no greeting")
    except ProtocolError as error:
        raise BadInput(SAME_VERSION.format(error)) from None


def check_of(name: str) -> Envelope[ClientMessage]:
    """Return the answer to a greeting of a hospital that only looks whether it could join."""
    return _properties_of(Check(site=name, version=version("fedcxr")).model_dump_json())


class MessageHandler:
    """Answers one server's messages on behalf of a hospital.

    Args:
        hospital: Takes part.
        state: Where it is noted what was received and sent.

    Attributes:
        hospital: Takes part.
        run: That was greeted last.
        farewell: The server's last message, once it has come.
        heard: Whether anything came from the server; each connection begins with False.
    """

    def __init__(self, hospital: Hospital, state: ClientState) -> None:
        self.hospital = hospital
        self._state = state
        self._weights = b""
        self._ready: Reply | Masked | None = None
        self.run = ""
        self.farewell: Farewell | None = None
        self.heard = False

    def answer(
        self,
        received: Envelope[ServerMessage],
        connected: Callable[[], bool],
        send: Callable[[Envelope[ClientMessage]], object] = lambda _progress: None,
    ) -> Envelope[ClientMessage]:
        """Return the answer to a message.

        Args:
            received: The server's.
            connected: Whether the server still waits for it.
            send: Sends the server word of the progress meanwhile.

        Raises:
            BadInput: The server speaks another protocol.
        """
        self.heard = True
        message = received.message
        try:
            match message.WhichOneof("msg"):
                case "get_properties_ins":
                    return self._properties(_text(message.get_properties_ins.config))
                case "fit_ins":
                    return self._fit(message.fit_ins, received.weights, connected, send)
                case "get_parameters_ins":
                    return self._parameters(_text(message.get_parameters_ins.config))
                case other:
                    raise ProtocolError(f"{other}, which is no part of this protocol")
        except ProtocolError as error:
            raise BadInput(SAME_VERSION.format(error)) from None

    def lost(self) -> None:
        """Note that the connection is lost."""
        self._state.write_status("connecting")

    def _write_status(self, standing: Standing, **values: Any) -> None:
        """Write how the client stands, and where it computes now."""
        if (scored := self.hospital.scored) is not None:
            values["scored"] = scored
        self._state.write_status(standing, device=str(self.hospital.device), **values)

    def _properties(self, text: str) -> Envelope[ClientMessage]:
        """Answer a greeting with a hello, and other messages with nothing."""
        hello = ""
        match parse_message(ANY_CALL, text):
            case ShareCall() | MaskCall() | ConfirmCall() | RevealCall() as call:
                return _properties_of(self._secure(call))
            case Greeting() as greeting:
                hello = self._hello(greeting)
            case Rejection() as rejection:
                number = rejection.identity.round
                log.warning(
                    "round %d: the reply was rejected: %s",
                    number,
                    rejection.reason,
                    extra=fields("rejected", round=number, reason=rejection.reason),
                )
                self._state.note("rejected", **rejection.model_dump(exclude={"kind", "protocol"}))
            case Farewell() as farewell:
                self.farewell = farewell
        return _properties_of(hello)

    def _secure(self, call: SecureCall) -> str:
        """Answer a step of a secure sum; keep the masked update until it is fetched."""
        answer, blob = self.hospital.sums.answer(call)
        told: dict[str, Any] = {"identity": call.identity.model_dump(), "answer": answer.kind}
        match call:
            case ShareCall():
                told["hospitals"] = call.names
            case ConfirmCall():
                told["hospitals"] = call.survivors
        self._state.note(f"secure {call.kind}", **told)
        if isinstance(answer, Masked):
            self._ready, self._weights = answer, blob
        return answer.model_dump_json()

    def _hello(self, greeting: Greeting) -> str:
        hello = self.hospital.greet(greeting)
        log.info(
            "%s (fedcxr %s) asks to join run %s of a server (fedcxr %s)%s, computing on %s in %s",
            hello.site,
            hello.version,
            greeting.run,
            greeting.version,
            ", in secure sums" if greeting.secure else f" with {hello.examples} images",
            self.hospital.device,
            self.hospital.precision,
            extra=fields("joined", run=greeting.run, site=hello.site, examples=hello.examples),
        )
        self.run = greeting.run
        self._state.note("hello", run=greeting.run, hello=hello.model_dump())
        self._write_status("connected", run=greeting.run)
        return hello.model_dump_json()

    def _fit(
        self,
        ins: ServerMessage.FitIns,
        blob: Blob,
        connected: Callable[[], bool],
        send: Callable[[Envelope[ClientMessage]], object],
    ) -> Envelope[ClientMessage]:
        """Do what an instruction says; keep the weights until they are fetched."""
        instruction = parse_message(INSTRUCTION, _text(ins.config))
        identity = instruction.identity
        self._state.note(
            "received",
            identity=identity.model_dump(),
            sha256=fingerprint(blob),
            bytes=len(blob),
        )
        until = datetime.now(UTC) + timedelta(seconds=instruction.seconds + GRACE_SECONDS)
        self.hospital.forget_scores()  # they are of another model
        working = {"run": identity.run, "round": identity.round, "until": until}
        self._write_status("working", **working)
        what = f"round {identity.round}: %.1f MB received, to train"
        if instruction.batches is not None:
            what = "canary: %.1f MB received, to train on a few films"
        if instruction.task == "evaluate":
            model = f"the {instruction.keep.model} model" if instruction.keep else "a model"
            what = f"{model}: %.1f MB received, to score"
        told = fields("round", round=identity.round, attempt=identity.attempt, bytes=len(blob))
        log.info(what, len(blob) / 1e6, extra=told)

        def tell(phase: Phase, share: float) -> None:
            progress = Progress(identity=identity, phase=phase, share=share)
            send(_properties_of(progress.model_dump_json()))
            with suppress(BadInput):  # the next status says so, and ends the client
                self._write_status("working", **working, phase=phase, share=round(share, 3))

        deadline = time.monotonic() + instruction.seconds
        self._ready = None
        with _ended_if_stuck(instruction, self._state):
            in_time = Cancellation(lambda: connected() and time.monotonic() < deadline)
            reply, self._weights = self.hospital.answer(
                instruction, blob, in_time, now_and_then(tell)
            )
        self._ready = reply if self._weights else None
        self._say(reply, len(self._weights))
        self._state.note(
            "answered", reply=reply.model_dump(mode="json", exclude={"kind", "protocol"})
        )
        self._write_status("connected", run=identity.run, round=identity.round)
        metrics = {"message": Scalar(string=reply.model_dump_json())}
        res = ClientMessage.FitRes(status=OK, num_examples=reply.examples, metrics=metrics)
        return Envelope(ClientMessage(fit_res=res))

    def _say(self, reply: Reply, size: int) -> None:
        """Log how good the received model is here, and how the training went."""
        number, scored = reply.identity.round, self.hospital.scored
        if scored is not None:
            told = fields("scored", round=number, auc=scored.auc, images=scored.films)
            log.info("round %d: %s", number, scored.in_words(), extra=told)
        if reply.loss is not None:
            log.info(
                "round %d: loss %.4f over %d images in %.1f s, %.1f MB to send",
                number,
                reply.loss,
                reply.examples,
                reply.seconds.train,
                size / 1e6,
                extra=fields(
                    "reply",
                    round=number,
                    examples=reply.examples,
                    loss=reply.loss,
                    seconds=reply.seconds.train,
                    bytes=size,
                ),
            )

    def _parameters(self, text: str) -> Envelope[ClientMessage]:
        """Hand over the weights of the last reply, once, and those of no other."""
        identity = parse_message(FETCH, text).identity
        weights = b""
        if self._ready is not None and identity == self._ready.identity:
            self._state.note(
                "sent",
                identity=identity.model_dump(),
                sha256=self._ready.weights,
                bytes=len(self._weights),
            )
            weights, self._weights, self._ready = self._weights, b"", None
        else:
            log.warning(
                "round %d: the server requested weights that this client no longer holds",
                identity.round,
            )
            self._state.note("not sent", identity=identity.model_dump())
        res = ClientMessage.GetParametersRes(status=OK)
        return Envelope(ClientMessage(get_parameters_res=res), weights)


def _properties_of(message: str) -> Envelope[ClientMessage]:
    """Return a message that is no reply to an instruction as it travels."""
    properties = {"message": Scalar(string=message)}
    res = ClientMessage.GetPropertiesRes(status=OK, properties=properties)
    return Envelope(ClientMessage(get_properties_res=res))


def _text(config: Any) -> str:
    """Return the message in the configuration of a call of Flower's."""
    return str(config["message"].string) if "message" in config else ""


@contextmanager
def _ended_if_stuck(instruction: Instruction, state: ClientState) -> Iterator[None]:
    """End the process if it is still at work a minute after the deadline.

    Work is given up at the deadline, between two batches or while it waits for a slot, so by then
    it is held up by something that may never return, such as a driver. Whatever restarts the client
    brings it back.
    """

    def words() -> None:
        number = instruction.identity.round
        state.end("failed", reason=f"stuck in round {number}")
        log.critical("round %d: stuck; the process ends", number)

    timer = Timer(instruction.seconds + GRACE_SECONDS, end_process, (1, words))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
