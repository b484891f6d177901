"""The service on a real socket, with a roster of which a test chooses when it lets in."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from flwr.proto.transport_pb2 import ClientMessage, Scalar, ServerMessage
from flwr.proto.transport_pb2_grpc import FlowerServiceStub

from client.state import ClientState
from client.transport.connection import take_part
from client.transport.messages import Participant
from common.protocol import INSTRUCTION as INSTRUCTION_READER
from common.protocol import Greeting, Hello, parse_message
from experiments.launch.local import free_port
from server.members.admission import Admission
from server.members.roster import Roster
from server.run.folder import RunFolder
from server.run.log import RunLog
from server.transport import connection
from server.transport import service as flower
from server.transport.connection import seal
from server.transport.service import serve
from tests.support.http2 import Peer
from tests.support.messages import HELLO, INSTRUCTION
from tests.support.provisioned import provision
from tests.support.waiting import wait_until

OTHER_SIZE = HELLO.model_copy(update={"image_size": HELLO.image_size + 1})
"""Is refused."""


class SlowAdmission(Admission):
    """Thinks about everybody until the test says so."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__("r", 0, HELLO.image_size, folder)
        self.asked, self.decide = threading.Event(), threading.Event()

    def refusal(self, greeting: Greeting, hello: Hello) -> str | None:
        self.asked.set()
        assert self.decide.wait(30)
        return super().refusal(greeting, hello)


def hello_of(words: Hello) -> ClientMessage:
    properties = {"message": Scalar(string=words.model_dump_json())}
    return ClientMessage(get_properties_res=ClientMessage.GetPropertiesRes(properties=properties))


class Watched(Roster):
    """Tells when a connection is known to be gone."""

    gone = threading.Event()

    def leave(self, connection: object) -> None:
        super().leave(connection)
        self.gone.set()


@pytest.mark.fault(
    "a hospital's connection ends while the server lets it in",
    "it is no longer among those who are there",
)
def test_who_leaves_while_it_is_let_in_is_not_there(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    admission = SlowAdmission(folder)
    roster = Watched(admission, folder, seal)
    address = f"127.0.0.1:{free_port()}"

    def work() -> None:
        answers: SimpleQueue[ClientMessage] = SimpleQueue()
        with grpc.insecure_channel(address) as channel:
            call = FlowerServiceStub(channel).Join(iter(answers.get, None))
            next(call)  # the greeting
            answers.put(hello_of(HELLO))
            assert admission.asked.wait(30)
            call.cancel()
        assert roster.gone.wait(30)
        admission.decide.set()
        wait_until(lambda: "left" in events_of(folder))
        assert roster.present() == {}

    serve(roster, address, None, work)


def events_of(folder: RunFolder) -> list[str]:
    file = folder.path / "events.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["event"] for line in lines]


class Context:
    """Of a call that is over, or is not."""

    def __init__(self, active: bool) -> None:
        self._active = active

    def add_callback(self, callback: object) -> bool:
        del callback
        return self._active

    def is_active(self) -> bool:
        return self._active

    def cancel(self) -> None:
        self._active = False


def roster_in(tmp_path: Path) -> Roster:
    folder = RunFolder.create(tmp_path / "run", {})
    return Roster(Admission("r", 0, HELLO.image_size, folder), folder, seal)


def is_greeted(address: str) -> bool:
    """Return whether somebody who connects now gets a greeting."""
    answers: SimpleQueue[None] = SimpleQueue()
    with grpc.insecure_channel(address) as channel:
        call = FlowerServiceStub(channel).Join(iter(answers.get, None))
        greeting = next(call, None)
        answers.put(None)
        call.cancel()
    return greeting is not None


def test_a_call_that_is_over_at_once_leaves_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower, "STRANGERS", 1)
    service = flower._Service(roster_in(tmp_path))

    def join(active: bool) -> list[Any]:
        context: Any = Context(active)
        return list(service.Join(iter(()), context))

    assert join(active=False) == []
    wait_until(lambda: len(join(active=True)) == 1, 10)


@pytest.mark.fault(
    "a stranger takes all places and leaves no room for the greeting (HTTP/2 window of 0)",
    "its calls are ended, and its places are free again",
)
def test_who_cannot_be_greeted_leaves_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower, "STRANGERS", 4)
    monkeypatch.setattr(flower, "GREETING_SECONDS", 1.0)
    address = f"127.0.0.1:{free_port()}"

    def work() -> None:
        peer = Peer(address, streams=4, window=0)
        wait_until(lambda: len(peer.ended) == 4, 20)
        assert is_greeted(address)
        peer.close()

    serve(roster_in(tmp_path), address, None, work)


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
    server = provision(tmp_path / "tls", ["hospital-00"]) / "server"
    certificates = (server / "server.crt").read_bytes(), (server / "server.key").read_bytes()
    roster = roster_in(tmp_path)

    def idle() -> None:
        peer = Peer(address, streams=0, window=0)
        wait_until(lambda: peer.closed.is_set(), 20)
        peer.close()

    def mute() -> None:
        with socket.create_connection((host, int(port)), 20) as peer:
            assert peer.recv(1) == b""

    serve(roster, address, None, idle)
    serve(roster, address, certificates, mute)


@pytest.mark.fault(
    "a stranger asks for the server's health again and again, and does not read the answers",
    "a few of its calls are kept, the others refused",
)
def test_answers_that_are_not_read_do_not_pile_up(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"

    def work() -> None:
        peer = Peer(address, streams=100, window=0, path="/grpc.health.v1.Health/Check")
        wait_until(lambda: len(peer.ended) >= 100 - flower.CALLS, 10)
        assert is_greeted(address)
        peer.close()

    serve(roster_in(tmp_path), address, None, work)


@pytest.mark.fault(
    "a stranger asks for the server's health and never finishes asking",
    "it is told at once, and nothing that it sends is read",
)
def test_who_asks_for_health_is_told_unheard(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"

    def work() -> None:
        health = "/grpc.health.v1.Health/Check"
        peer = Peer(address, streams=flower.CALLS, window=1 << 16, path=health)
        wait_until(lambda: len(peer.ended) == flower.CALLS, 10)
        serving = b"\x00\x00\x00\x00\x02\x08\x01"  # one message, uncompressed: field 1 is 1
        assert set(peer.received.values()) == {serving}
        assert is_greeted(address)
        peer.close()

    serve(roster_in(tmp_path), address, None, work)


@pytest.mark.fault(
    "a peer that is refused does not read why",
    "its call is ended all the same",
)
def test_who_does_not_read_the_farewell_has_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower, "GREETING_SECONDS", 20.0)
    monkeypatch.setattr(connection, "WORD_SECONDS", 0.5)
    address = f"127.0.0.1:{free_port()}"
    roster = roster_in(tmp_path)
    greeting = {"message": Scalar(string=roster.admission.greeting().model_dump_json())}
    asked = ServerMessage(get_properties_ins=ServerMessage.GetPropertiesIns(config=greeting))
    room = 5 + asked.ByteSize()  # gRPC's frame; nothing fits behind it

    def work() -> None:
        peer = Peer(address, streams=1, window=room)
        wait_until(lambda: len(peer.received.get(1, b"")) == room, 10)
        peer.say(1, hello_of(OTHER_SIZE).SerializeToString())
        wait_until(lambda: 1 in peer.ended, 10)
        assert len(peer.received[1]) == room
        peer.close()

    serve(roster, address, None, work)


class Newcomer:
    """A hospital that says hello and does no work."""

    device = "cpu"

    def __init__(self, number: int) -> None:
        self.name = f"hospital-{number:03d}"
        self._process = f"{number:032x}"

    def greet(self, greeting: Greeting, server: str) -> Hello:
        del greeting
        words = {"site": self.name, "process": self._process, "server": server}
        return HELLO.model_copy(update=words)


def join_in_background(newcomer: Any, address: str, patience: float = 60.0) -> threading.Thread:
    participant = Participant(newcomer, address, None, ClientState(None))
    thread = threading.Thread(target=take_part, args=(participant, address, None, patience))
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

    serve(roster, address, None, work)


@pytest.mark.fault(
    "strangers say hello, or answer to being refused, with as much as a message may hold",
    "two of them are read at a time, and none is listened to",
)
@pytest.mark.parametrize("first", [[], [OTHER_SIZE]], ids=["hello", "answer to a refusal"])
def test_large_words_of_strangers_are_read_a_few_at_a_time(
    tmp_path: Path, first: list[Hello]
) -> None:
    class Together(Admission):
        """Decides on nobody until all have said hello, for which they need the same places."""

        def refusal(self, greeting: Greeting, hello: Hello) -> str | None:
            everybody.wait(30)
            return super().refusal(greeting, hello)

    everybody = threading.Barrier(6)
    folder = RunFolder.create(tmp_path / "run", {})
    service = flower._Service(Roster(Together("r", 0, HELLO.image_size, folder), folder, seal))
    large = hello_of(HELLO)
    large.get_properties_res.properties["more"].string = "x" * flower.WORDS_BYTES
    go_on, lock = threading.Event(), threading.Lock()
    asked: list[int] = []
    reading = [0]
    most = [0]

    def answers() -> Iterator[ClientMessage]:
        yield from map(hello_of, first)
        with lock:
            reading[0] += 1
            most[0] = max(most[0], reading[0])
        assert go_on.wait(30)
        with lock:
            reading[0] -= 1
        yield large

    def join() -> None:
        context: Any = Context(active=True)
        asked.extend(1 for _question in service.Join(answers(), context))

    threads = [threading.Thread(target=join) for _ in range(6)]
    for thread in threads:
        thread.start()
    questions = 6 * (1 + len(first))
    wait_until(lambda: len(asked) == questions and reading[0] == 2)
    go_on.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert most == [2]
    assert len(asked) == questions, "whoever says so much is asked nothing any more"


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
    ended: SimpleQueue[threading.ExceptHookArgs] = SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", ended.put)

    def answers_to(words: Hello) -> list[ServerMessage]:
        said: SimpleQueue[ClientMessage | None] = SimpleQueue()
        heard = []
        with grpc.insecure_channel(address) as channel:
            call = FlowerServiceStub(channel).Join(iter(said.get, None), timeout=20)
            for message in call:
                heard.append(message)
                said.put(hello_of(words))
            said.put(None)
        return heard

    def work() -> None:
        assert len(answers_to(HELLO)) == 1  # the greeting; then the connection is closed
        wait_until(lambda: roster.present() == {}, 10)
        assert 1 <= len(answers_to(OTHER_SIZE)) <= 2

    serve(roster, address, None, work)
    for _ in range(2):  # its connection is closed before a thread has ended
        assert ended.get(timeout=10).exc_type is OSError


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

    serve(roster, address, None, work)


def test_who_waits_for_the_next_run_is_told_once(tmp_path: Path) -> None:
    roster = roster_in(tmp_path)
    address = f"127.0.0.1:{free_port()}"
    joined: list[str] = []

    class Stays(Newcomer):
        def greet(self, greeting: Greeting, server: str) -> Hello:
            joined.append(server)
            return super().greet(greeting, server)

    def work() -> None:
        stays = Stays(0)
        first = join_in_background(stays, address)
        assert roster.wait_for(1, 10)
        roster.say_farewell("enough")
        first.join(10)
        participant = Participant(stays, address, None, ClientState(None))  # type: ignore[arg-type]
        again = (participant, address, None, 1e9)
        threading.Thread(target=take_part, args=again, daemon=True).start()
        wait_until(lambda: len(joined) == 2, 10)
        start = time.monotonic()
        roster.say_farewell("enough", ["hospital-000"])
        assert time.monotonic() - start < 5

    serve(roster, address, None, work)


def test_who_is_not_sent_to_in_time_keeps_its_connection_and_others_have_less_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower, "TRANSFERS", 1)
    roster = roster_in(tmp_path)
    service = flower._Service(roster)
    message = seal(INSTRUCTION, b"weights")
    assert isinstance(message, connection.Sealed)
    allowed = [True]
    proxy: Any = None
    monkeypatch.setattr(roster, "may_stay", lambda _connection: allowed[0])

    def turn(seconds: float, after: float) -> ServerMessage | None:
        """Return what is sent to somebody for whom there is room only ``after`` a while."""
        ours = service._turn_to_send(message, proxy, time.monotonic() + 60)
        assert ours.__enter__() == (message.data,)
        room = threading.Timer(after, ours.__exit__, (None, None, None))
        room.start()
        with service._turn_to_send(message, proxy, time.monotonic() + seconds) as sent:
            room.join()
            return None if sent is None else ServerMessage.FromString(flower._serialize(sent))

    assert turn(seconds=0.2, after=0.6) is None
    shortened = turn(seconds=30, after=0.5)
    assert shortened is not None
    words = parse_message(INSTRUCTION_READER, shortened.fit_ins.config["message"].string)
    assert 20 < words.seconds < 29.9
    assert shortened.fit_ins.parameters.tensors == [b"weights"]
    in_time = turn(seconds=INSTRUCTION.seconds, after=0.2)
    assert in_time is not None
    words = parse_message(INSTRUCTION_READER, in_time.fit_ins.config["message"].string)
    assert words == INSTRUCTION, "so short a wait is not worth a copy of the weights"
    allowed[0] = False
    assert turn(seconds=30, after=0.5) is None
    with service._turn_to_send(message, proxy, time.monotonic()) as sent:
        assert sent is not None
        assert flower._serialize(sent) is message.data, "all hospitals share it"
