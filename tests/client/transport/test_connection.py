"""The client against servers that go, or say nothing."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from flwr.proto.transport_pb2 import Scalar, ServerMessage

from client.cancellation import Cancellation, GivenUp
from client.progress import Tell
from client.state import ClientState
from client.transport import connection
from client.transport.connection import take_part
from client.transport.messages import MessageHandler
from common.errors import BadInput
from common.protocol import Farewell, Instruction, Reply
from tests.support.messages import GOOD, INSTRUCTION
from tests.support.scripted import GREETING, SOMEBODY, Script, Somebody, call, serving


def take_part_with(script: Script, patience: float, hospital: Any = SOMEBODY) -> int:
    """Return how often the client connected."""
    with serving(script) as (service, address):
        take_part(MessageHandler(hospital, ClientState(None)), address, None, patience)
    return service.calls


def test_patience_begins_when_the_connection_is_lost() -> None:
    patience = 2.0

    def script(number: int, answers: Iterator[Any]) -> Iterator[ServerMessage]:
        if number == 1:
            return  # the server is out of reach, after a long time in which it was not
        yield GREETING
        next(answers)
        if number == 0:
            time.sleep(1.2 * patience)  # a healthy connection on which nothing is said
            return
        yield call(Farewell(outcome="finished"))
        next(answers)

    assert take_part_with(script, patience) == 3


@pytest.mark.fault(
    "the connection ends while a hospital trains",
    "it gives up the work, which nobody waits for, and connects again",
)
def test_work_that_nobody_waits_for_is_given_up() -> None:
    class Working(Somebody):
        gave_up = False

        def answer(
            self, instruction: Instruction, blob: bytes, cancellation: Cancellation, tell: Tell
        ) -> tuple[Reply, bytes]:
            del instruction, blob, tell
            deadline = time.monotonic() + 10
            with suppress(GivenUp):
                while time.monotonic() < deadline:
                    cancellation.check()
                    time.sleep(0.01)
                return GOOD, b"weights"
            self.gave_up = True
            return GOOD, b""

    def script(number: int, answers: Iterator[Any]) -> Iterator[ServerMessage]:
        yield GREETING
        next(answers)
        if number == 0:
            config = {"message": Scalar(string=INSTRUCTION.model_dump_json())}
            yield ServerMessage(fit_ins=ServerMessage.FitIns(config=config))
            return
        yield call(Farewell(outcome="finished"))
        next(answers)

    hospital = Working()
    assert take_part_with(script, 10.0, hospital) == 2
    assert hospital.gave_up


@pytest.mark.fault(
    "a server accepts connections and never greets",
    "the client hangs up after a minute, and gives up once its patience is over",
)
def test_a_silent_server_does_not_hold_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "GREETING_SECONDS", 0.5)
    over = threading.Event()

    def script(number: int, answers: Iterator[Any]) -> Iterator[ServerMessage]:
        del number, answers
        over.wait(30)
        yield from ()

    try:
        with pytest.raises(BadInput, match=r"no server within 1 s \(no greeting within"):
            take_part_with(script, patience=1.0)
    finally:
        over.set()
