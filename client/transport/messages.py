"""The client's side of Flower's messages: what the server asks, and what the hospital answers.

See docs/decisions/0001-flower-transport.md and 0002-flower-service.md. This folder is all that
imports Flower under ``client``.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from flwr.proto.transport_pb2 import (
    ClientMessage,
    Scalar,
    ServerMessage,
)

from client import stuck
from client.cancellation import Cancellation
from client.hospital import Hospital
from client.progress import Phase, now_and_then
from client.state import ClientState, Standing
from client.transport.form import OK, SAME_VERSION, properties_of, text_of
from common.envelope import Envelope
from common.errors import BadInput
from common.message import ProtocolError, parse_message
from common.protocol import (
    FETCH,
    INSTRUCTION,
    Farewell,
    Greeting,
    Progress,
    Rejection,
    Reply,
)
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
        asked: Whether it was an instruction.
    """

    def __init__(self, hospital: Hospital, state: ClientState) -> None:
        self.hospital = hospital
        self._state = state
        self._weights = b""
        self._ready: Reply | Masked | None = None
        self.run = ""
        self.farewell: Farewell | None = None
        self.heard = self.asked = False

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
                    return self._properties(text_of(message.get_properties_ins.config))
                case "fit_ins":
                    self.asked = True
                    return self._fit(message.fit_ins, received.weights, connected, send)
                case "get_parameters_ins":
                    return self._parameters(text_of(message.get_parameters_ins.config))
                case other:
                    raise ProtocolError(f"{other}, which is no part of this protocol")
        except ProtocolError as error:
            raise BadInput(SAME_VERSION.format(error)) from None

    def lost(self) -> None:
        """Note that the connection is lost."""
        self._state.write_status("connecting")

    def rest(self) -> None:
        """Note that the next run is waited for."""
        self._state.write_status("waiting", reason="the run is over")

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
                return properties_of(self._secure(call))
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
        return properties_of(hello)

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
        instruction = parse_message(INSTRUCTION, text_of(ins.config))
        identity = instruction.identity
        self._state.note(
            "received",
            identity=identity.model_dump(),
            sha256=fingerprint(blob),
            bytes=len(blob),
        )
        until = datetime.now(UTC) + timedelta(seconds=instruction.seconds + stuck.GRACE_SECONDS)
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
            send(properties_of(progress.model_dump_json()))
            with suppress(BadInput):  # the next status says so, and ends the client
                self._write_status("working", **working, phase=phase, share=round(share, 3))

        deadline = time.monotonic() + instruction.seconds
        self._ready = None
        with stuck.ended_if_stuck(instruction, self._state):
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
