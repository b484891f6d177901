"""What hospitals tell of their progress, on a real socket."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

import grpc
import pytest
from flwr.proto.transport_pb2 import ClientMessage, Parameters, Scalar
from flwr.proto.transport_pb2_grpc import FlowerServiceStub

from common.message import Message, ProtocolError
from common.protocol import Greeting, Progress
from experiments.launch.local import free_port
from server.members.admission import Admission
from server.members.roster import Roster
from server.rounds.ask import Connection, HospitalLost, Weights
from server.run.folder import RunFolder
from server.transport.connection import PROGRESS_BURST
from server.transport.service import listening
from tests.support.messages import GOOD, HELLO, IDENTITY, INSTRUCTION

HALF = Progress(identity=IDENTITY, phase="training", share=0.5)


def properties(message: Message) -> ClientMessage:
    told = {"message": Scalar(string=message.model_dump_json())}
    return ClientMessage(get_properties_res=ClientMessage.GetPropertiesRes(properties=told))


REPLY = ClientMessage(
    fit_res=ClientMessage.FitRes(metrics={"message": Scalar(string=GOOD.model_dump_json())})
)
WEIGHTS = ClientMessage(
    get_parameters_res=ClientMessage.GetParametersRes(parameters=Parameters(tensors=[b"weights"]))
)

Say = Callable[[ClientMessage], object]


@contextmanager
def hospital_that(works: Callable[[Say], object], folder: Path) -> Iterator[Connection]:
    """Yield the connection to a hospital that does something of its own when it is instructed."""
    folder.mkdir(exist_ok=True)
    run = RunFolder.create(folder / "run", {})
    roster = Roster(Admission(Greeting(run="r", seed=0), HELLO.image_size, run), run)
    address = f"127.0.0.1:{free_port()}"
    answers: SimpleQueue[ClientMessage | None] = SimpleQueue()

    def live() -> None:
        with grpc.insecure_channel(address) as channel:
            call = FlowerServiceStub(channel).Join(iter(answers.get, None))
            try:
                for message in call:
                    match message.WhichOneof("msg"):
                        case "get_properties_ins":
                            answers.put(properties(HELLO))
                        case "fit_ins":
                            works(answers.put)
                        case "get_parameters_ins":
                            answers.put(WEIGHTS)
            except grpc.RpcError:
                pass

    with listening(roster, address, None):
        Thread(target=live, daemon=True).start()
        assert roster.wait_for(1, 20)
        try:
            yield roster.present()[HELLO.site]
        finally:
            answers.put(None)


def test_progress_is_heard_ahead_of_the_reply_and_nothing_gets_out_of_step(tmp_path: Path) -> None:
    told = [HALF, HALF.model_copy(update={"share": 1.0})]
    heard: list[Progress] = []

    def works(say: Say) -> None:
        for progress in told:
            say(properties(progress))
        say(REPLY)

    with hospital_that(works, tmp_path) as connection:
        for _ in range(2):
            assert connection.ask(INSTRUCTION, Weights(b""), 20, heard.append) == GOOD
            assert connection.fetch(IDENTITY, 20) == b"weights"
    assert heard == 2 * told


@pytest.mark.fault(
    "a hospital floods the server with words on its progress",
    "a few are heard; its reply is rejected, and its connection is closed",
)
def test_a_flood_is_cut_off_before_it_keeps_the_server_busy(tmp_path: Path) -> None:
    heard: list[Progress] = []

    def floods(say: Say) -> None:
        for _ in range(20_000):
            say(properties(HALF))
        say(REPLY)

    start = time.monotonic()
    with hospital_that(floods, tmp_path) as connection:
        with pytest.raises(ProtocolError, match="its progress too often"):
            connection.ask(INSTRUCTION, Weights(b""), 60, heard.append)
        assert PROGRESS_BURST <= len(heard) <= PROGRESS_BURST + 1 + time.monotonic() - start
        with pytest.raises(HospitalLost):
            connection.fetch(IDENTITY, 20)


def test_progress_does_not_put_the_deadline_off(tmp_path: Path) -> None:
    over = Event()

    def trickles(say: Say) -> None:
        for _ in count():
            say(properties(HALF))
            time.sleep(0.15)
            if over.is_set():
                return

    with hospital_that(trickles, tmp_path) as connection:
        # Not by the bound on progress, which would end it later, and in other words.
        with pytest.raises(HospitalLost, match="no answer in time"):
            connection.ask(INSTRUCTION, Weights(b""), 1, lambda _progress: None)
        over.set()


@pytest.mark.parametrize(
    "wrong", [HALF.model_copy(update={"identity": IDENTITY.model_copy(update={"round": 9})}), HELLO]
)
def test_what_is_no_progress_of_this_instruction_ends_the_connection(
    tmp_path: Path, wrong: Message
) -> None:
    heard: list[Progress] = []

    def works(say: Say) -> None:
        say(properties(wrong))
        say(REPLY)

    with hospital_that(works, tmp_path) as connection:
        with pytest.raises(ProtocolError):
            connection.ask(INSTRUCTION, Weights(b""), 20, heard.append)
        with pytest.raises(HospitalLost):
            connection.fetch(IDENTITY, 20)
    assert heard == []
