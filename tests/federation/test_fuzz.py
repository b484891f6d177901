"""Whatever bytes arrive: they are understood, or refused by name; nothing else happens."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from flwr.proto.transport_pb2 import ClientMessage, Parameters, Scalar, ServerMessage
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from client.state import ClientState
from client.transport.form import message_of
from client.transport.messages import MessageHandler
from common.envelope import Envelope, enclosed
from common.errors import BadInput
from common.message import VERSION, ProtocolError, parse_message
from common.protocol import (
    CALL,
    FETCH,
    HELLO,
    INSTRUCTION,
    PROGRESS,
    REPLY,
    Check,
    Greeting,
    Hello,
    Ping,
    Progress,
    Reply,
)
from common.state import State, spec_of
from common.wire import WireError, pack, unpack
from server.rounds.ask import Weights
from server.transport.connection import FlowerConnection, Outbox, greet
from server.transport.stream import WEIGHTS, Stream, answer_of
from tests.support.messages import GOOD
from tests.support.messages import HELLO as SOMEONE
from tests.support.messages import INSTRUCTION as ORDER

READERS: list[TypeAdapter[Any]] = [CALL, FETCH, HELLO, INSTRUCTION, PROGRESS, REPLY]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
STATE: State = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "n": np.array(3),
    "empty": np.zeros(0, np.float32),
}
BLOB, SPEC = pack(STATE), spec_of(STATE)
GREETING = Greeting(run="r", seed=0)
HALFWAY = Progress(identity=ORDER.identity, phase="training", share=0.5)
CHECK = Check(site="a", version="0")
MESSAGES = [message.model_dump_json() for message in (GOOD, SOMEONE, ORDER, HALFWAY, CHECK)]


@st.composite
def damaged(draw: Any, whole: bytes) -> bytes:
    """Some bytes of ``whole`` set anew, and some cut off or put in."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(content)))
    added: bytes = draw(st.binary(max_size=20))
    return bytes(content[:cut]) + added + bytes(content[cut:])


@settings(deadline=None, max_examples=300)
@given(st.text() | JSON.map(lambda content: json.dumps(content)))
def test_any_text_is_a_message_or_is_refused(text: str) -> None:
    for reader in READERS:
        with pytest.raises(ProtocolError):
            parse_message(reader, text)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(MESSAGES), st.data())
def test_a_damaged_message_is_understood_or_refused_and_never_quoted(
    message: str, data: Any
) -> None:
    text = data.draw(damaged(message.encode())).decode(errors="replace")
    for reader in READERS:
        with suppress(ProtocolError):
            parse_message(reader, text)
            continue
        what = rf"^(no message|another version) of protocol {VERSION}$"
        with pytest.raises(ProtocolError, match=what):
            parse_message(reader, text)


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=300) | damaged(BLOB))
def test_any_blob_is_the_models_state_or_is_refused(blob: bytes) -> None:
    try:
        state = unpack(blob, SPEC)
    except WireError:
        return
    assert spec_of(state) == SPEC


@settings(deadline=None, max_examples=200)
@given(
    st.text(max_size=100)
    | JSON.map(lambda content: json.dumps(content))
    | st.sampled_from(MESSAGES),
    st.sampled_from(["get_properties_ins", "get_parameters_ins", "fit_ins", "reconnect_ins"]),
    st.lists(st.binary(max_size=100), max_size=3),
)
def test_a_client_takes_nothing_but_the_protocol(
    text: str, kind: str, tensors: list[bytes]
) -> None:
    class Nobody:
        name, device, precision = "nobody", "cpu", "fp32"
        scored = None

        def greet(self, *_: object) -> Hello:
            return SOMEONE

        def forget_scores(self) -> None:
            pass

        def answer(self, *_arguments: object) -> Any:
            return GOOD, b"weights"

    handler = MessageHandler(Nobody(), ClientState(None))  # type: ignore[arg-type]
    message = ServerMessage()
    part = getattr(message, kind)
    part.SetInParent()
    if kind != "reconnect_ins":
        part.config["message"].CopyFrom(Scalar(string=text))
    if kind == "fit_ins":
        part.parameters.CopyFrom(Parameters(tensors=tensors))
    received = message_of(message.SerializeToString())
    if kind == "fit_ins" and text == MESSAGES[2]:
        answer = handler.answer(received, lambda: True)
        assert answer.message.WhichOneof("msg") == "fit_res"
    else:
        with pytest.raises(BadInput, match="run the same version of FedCXR on both sides"):
            handler.answer(received, lambda: True)


def answers_of(text: str) -> list[bytes]:
    """Return answers of every kind as they travel, with a text where the protocol has its own."""
    scalar = {"message": Scalar(string=text)}
    parameters = Parameters(tensors=[BLOB])
    told = ClientMessage.GetPropertiesRes(properties=scalar)
    done = ClientMessage.FitRes(metrics=scalar, parameters=parameters, num_examples=3)
    handed = ClientMessage.GetParametersRes(parameters=parameters)
    empty = ClientMessage(get_parameters_res=ClientMessage.GetParametersRes())
    return [
        enclosed(empty.SerializeToString(), WEIGHTS, BLOB),
        ClientMessage(get_properties_res=told).SerializeToString(),
        ClientMessage(fit_res=done).SerializeToString(),
        ClientMessage(get_parameters_res=handed).SerializeToString(),
    ]


ANSWERS = [answer for message in MESSAGES for answer in answers_of(message)]


class Answering(Stream):
    """To a peer that gives one answer, whatever it is asked."""

    def __init__(self, answer: Envelope[ClientMessage]) -> None:
        super().__init__(lambda: None)
        self._answer = answer

    def send(self, data: bytes, timeout: float) -> None:
        del data, timeout

    def receive(self, timeout: float) -> Envelope[ClientMessage]:
        del timeout
        return self._answer


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(ANSWERS).flatmap(lambda a: st.just(a) | damaged(a)) | st.binary())
def test_a_server_takes_nothing_but_the_protocol(answer: bytes) -> None:
    try:
        stream = Answering(answer_of(answer))
    except DecodeError:
        return  # gRPC ends the call
    connection = FlowerConnection(stream, None, SOMEONE, Outbox(), lambda _connection: True)
    with suppress(ProtocolError):
        assert isinstance(greet(stream, GREETING), Hello | Check)
    assert connection.answers(Ping())
    assert isinstance(connection.fetch(ORDER.identity, 1), bytes | memoryview)
    with suppress(ProtocolError):
        assert isinstance(connection.ask(ORDER, Weights(b"weights"), 1, print), Reply)
