"""The service on a real socket, with a roster that a test controls."""

import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from flwr.proto.transport_pb2 import ClientMessage, Scalar, ServerMessage
from flwr.proto.transport_pb2_grpc import FlowerServiceStub

from client.state import ClientState
from client.transport.connection import take_part
from client.transport.messages import MessageHandler
from common import certificates
from common.envelope import Envelope
from common.message import parse_message
from common.protocol import INSTRUCTION as INSTRUCTION_READER
from common.protocol import Greeting, Hello
from experiments.launch.local import free_port
from server.members.admission import Admission
from server.members.roster import Roster
from server.rounds.ask import HospitalLost, Weights
from server.run.folder import RunFolder
from server.run.log import RunLog
from server.transport import connection as connections
from server.transport import service as flower
from server.transport.connection import FlowerConnection, Outbox
from server.transport.service import listening
from server.transport.stream import Stream
from server.transport.tls import ServerTLS
from tests.support.http2 import Peer
from tests.support.messages import GOOD, HELLO, INSTRUCTION
from tests.support.provisioned import provision
from tests.support.rosters import events_of, hello_of, roster_in
from tests.support.waiting import wait_until

OTHER_SIZE = HELLO.model_copy(update={"image_size": HELLO.image_size + 1})
"""Is refused."""


class SlowAdmission(Admission):
    """Thinks about everybody until the test says so."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(Greeting(run="r", seed=0), HELLO.image_size, folder)
        self.asked, self.decide = threading.Event(), threading.Event()

    def refusal(self, peer: certificates.Peer | None, hello: Hello) -> str | None:
        self.asked.set()
        assert self.decide.wait(30)
        return super().refusal(peer, hello)


class Watched(Stream):
    """Tells when a connection is known to be gone."""

    gone = threading.Event()

    def close(self) -> None:
        super().close()
        self.gone.set()


@pytest.mark.fault(
    "a hospital's connection ends while the server lets it in",
    "it is no longer among those who are there",
)
def test_who_leaves_while_it_is_let_in_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower, "Stream", Watched)
    folder = RunFolder.create(tmp_path / "run", {})
    admission = SlowAdmission(folder)
    roster = Roster(admission, folder)
    address = f"127.0.0.1:{free_port()}"

    def work() -> None:
        answers: SimpleQueue[ClientMessage] = SimpleQueue()
        with grpc.insecure_channel(address) as channel:
            call = FlowerServiceStub(channel).Join(iter(answers.get, None))
            next(call)  # the greeting
            answers.put(hello_of(HELLO))
            assert admission.asked.wait(30)
            call.cancel()
        assert Watched.gone.wait(30)
        admission.decide.set()
        wait_until(lambda: "left" in events_of(folder))
        assert roster.present() == {}

    with listening(roster, address, None):
        work()


@pytest.mark.fault(
    "a stranger connects and calls nothing, or does not even begin to speak TLS",
    "its connection is closed after half a minute",
)
def test_connections_on_which_nothing_is_called_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower, "IDLE_SECONDS", 1)
    address = f"127.0.0.1:{free_port()}"
    host, _, port = address.partition(":")
    tls = ServerTLS(provision(tmp_path / "tls", ["hospital-00"]) / "server")
    roster = roster_in(tmp_path)

    def idle() -> None:
        peer = Peer(address, streams=0, window=0)
        wait_until(lambda: peer.closed.is_set(), 20)
        peer.close()

    def mute() -> None:
        with socket.create_connection((host, int(port)), 20) as peer:
            assert peer.recv(1) == b""

    with listening(roster, address, None):
        idle()
    with listening(roster, address, tls):
        mute()


@pytest.mark.fault(
    "a peer that is refused does not read why",
    "its call is ended all the same",
)
def test_who_does_not_read_the_farewell_has_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 0.5)
    address = f"127.0.0.1:{free_port()}"
    roster = roster_in(tmp_path)
    greeting = {"message": Scalar(string=roster.admission.greeting.model_dump_json())}
    asked = ServerMessage(get_properties_ins=ServerMessage.GetPropertiesIns(config=greeting))
    room = 5 + asked.ByteSize()  # gRPC's frame; nothing fits behind it

    def work() -> None:
        peer = Peer(address, streams=1, window=room)
        wait_until(lambda: len(peer.received.get(1, b"")) == room, 10)
        peer.say(1, hello_of(OTHER_SIZE).SerializeToString())
        wait_until(lambda: 1 in peer.ended, 10)
        assert len(peer.received[1]) == room
        peer.close()

    with listening(roster, address, None):
        work()


class Newcomer:
    """A hospital that says hello and does no work."""

    device = "cpu"
    precision = "fp32"
    scored = None

    def __init__(self, number: int) -> None:
        self.name = f"hospital-{number:03d}"
        self._process = f"{number:032x}"

    def greet(self, greeting: Greeting) -> Hello:
        del greeting
        return HELLO.model_copy(update={"site": self.name, "process": self._process})


def join_in_background(newcomer: Any, address: str, patience: float = 60.0) -> threading.Thread:
    handler = MessageHandler(newcomer, ClientState(None))
    thread = threading.Thread(target=take_part, args=(handler, address, None, patience))
    thread.start()
    return thread


@pytest.mark.fault(
    "a hundred hospitals connect in one instant",
    "all of them are let in within seconds",
)
def test_a_hundred_hospitals_come_at_once(tmp_path: Path) -> None:
    roster = roster_in(tmp_path)
    address = f"127.0.0.1:{free_port()}"

    def work() -> None:
        threads = [join_in_background(Newcomer(number), address) for number in range(100)]
        assert roster.wait_for(100, 30)
        roster.say_farewell("enough")
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()

    with listening(roster, address, None):
        work()


@pytest.mark.fault(
    "the disk is full when a hospital is let in, or refused",
    "its connection is closed, and no client hangs",
)
def test_a_full_disk_closes_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roster = roster_in(tmp_path)
    address = f"127.0.0.1:{free_port()}"

    def full(*_args: object, **_fields: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunLog, "record", full)

    def answers_to(words: Hello) -> list[ServerMessage]:
        said: SimpleQueue[ClientMessage | None] = SimpleQueue()
        heard = []
        with grpc.insecure_channel(address) as channel:
            call = FlowerServiceStub(channel).Join(iter(said.get, None), timeout=20)
            with suppress(grpc.RpcError):
                for message in call:
                    heard.append(message)
                    said.put(hello_of(words))
            said.put(None)
        return heard

    def work() -> None:
        assert len(answers_to(HELLO)) == 1  # the greeting; then the connection is closed
        wait_until(lambda: roster.present() == {}, 10)
        assert 1 <= len(answers_to(OTHER_SIZE)) <= 2

    with listening(roster, address, None):
        work()


@pytest.mark.fault(
    "a hospital is not connected in the instant in which the run ends",
    "it is told when it comes back, and ends with exit code 0",
)
def test_who_comes_after_the_farewell_is_told(tmp_path: Path) -> None:
    roster = roster_in(tmp_path)
    address = f"127.0.0.1:{free_port()}"
    late: list[threading.Thread] = []

    def work() -> None:
        first = join_in_background(Newcomer(0), address)
        assert roster.wait_for(1, 10)
        ended = threading.Event()

        def end() -> None:
            roster.say_farewell("enough", ["hospital-000", "hospital-001"])
            ended.set()

        threading.Thread(target=end).start()
        first.join(10)
        assert not first.is_alive()
        assert not ended.is_set()
        late.append(join_in_background(Newcomer(1), address))
        assert ended.wait(10)
        late[0].join(10)
        assert not late[0].is_alive()

    with listening(roster, address, None):
        work()


class Recording(Stream):
    """Takes what is sent to it; the replies are written already."""

    def __init__(self) -> None:
        super().__init__(lambda: None)
        self.data: list[bytes] = []
        self.send_now = threading.Event()
        self.send_now.set()

    def send(self, data: bytes, timeout: float) -> None:
        del timeout
        self.data.append(data)
        assert self.send_now.wait(30)

    def receive(self, timeout: float) -> Envelope[ClientMessage]:
        del timeout
        metrics = {"message": Scalar(string=GOOD.model_dump_json())}
        return Envelope(ClientMessage(fit_res=ClientMessage.FitRes(metrics=metrics)))


def test_weights_are_sent_a_few_at_a_time_and_not_to_hospitals_dismissed_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "TRANSFERS", 1)
    outbox, weights = Outbox(), Weights(b"weights")
    allowed = [True]
    slow, other = Recording(), Recording()

    def connection_to(stream: Stream) -> FlowerConnection:
        return FlowerConnection(stream, None, HELLO, outbox, lambda _connection: allowed[0])

    slow.send_now.clear()
    first = threading.Thread(target=connection_to(slow).ask, args=(INSTRUCTION, weights, 60, print))
    first.start()
    wait_until(lambda: len(slow.data) == 1, 10)
    waiting = connection_to(other)
    with pytest.raises(HospitalLost, match="its turn to be sent the weights did not come"):
        waiting.ask(INSTRUCTION, weights, 0.2, print)
    assert other.data == []
    slow.send_now.set()
    first.join(10)
    assert waiting.ask(INSTRUCTION, weights, 10, print) == GOOD
    assert other.data[0] is slow.data[0], "all hospitals share what is serialised"
    sent = ServerMessage.FromString(other.data[0]).fit_ins
    assert sent.parameters.tensors == [b"weights"]
    assert parse_message(INSTRUCTION_READER, sent.config["message"].string) == INSTRUCTION
    allowed[0] = False
    with pytest.raises(HospitalLost, match="may not take part any more"):
        waiting.ask(INSTRUCTION, weights, 10, print)
    assert len(other.data) == 1


def test_a_repeated_round_is_serialised_again() -> None:
    outbox, weights = Outbox(), Weights(b"weights")
    again = INSTRUCTION.model_copy(
        update={"identity": INSTRUCTION.identity.model_copy(update={"attempt": 2})}
    )
    first, second = (outbox.serialised(each, weights) for each in (INSTRUCTION, again))
    assert first != second
    assert outbox.serialised(again, weights) is second


def test_a_message_that_was_sent_is_held_by_nobody() -> None:
    stream, message = Stream(lambda: None), b"weights" * 10
    answers: SimpleQueue[Envelope[ClientMessage]] = SimpleQueue()
    before = sys.getrefcount(message)
    sending = threading.Thread(target=stream.send, args=(message, 10))
    sending.start()
    served = stream.serve(iter(answers.get, None))
    assert next(served).pop() is message
    waiting = threading.Thread(target=list, args=(served,))
    waiting.start()  # gRPC comes back: the message is sent, and the answer is waited for
    sending.join(10)
    assert sys.getrefcount(message) == before
    answers.put(Envelope(ClientMessage(), b""))
    stream.close()
    waiting.join(10)


def test_a_closed_stream_answers_every_call_at_once() -> None:
    stream = Stream(lambda: None)
    closed: list[int] = []
    stream.when_closed(lambda: closed.append(1))
    stream.close()
    stream.close()
    stream.when_closed(lambda: closed.append(2))
    assert closed == [1, 2]
    for _ in range(2):
        with pytest.raises(HospitalLost, match="its connection was closed"):
            stream.send(b"", 10)
        with pytest.raises(HospitalLost, match="its connection was closed"):
            stream.receive(10)
