"""The service on a real socket, with a roster of which a test chooses when it lets in."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from flwr.proto.transport_pb2 import ClientMessage, Scalar, ServerMessage
from flwr.proto.transport_pb2_grpc import FlowerServiceStub

from client.flower import Participant, take_part
from client.state import ClientState
from common.protocol import Greeting, Hello
from experiments.local import free_port
from server import flower
from server.admission import Admission
from server.flower import seal, serve
from server.roster import Roster
from server.run_folder import RunFolder
from tests.federation.test_federation import wait_until
from tests.http2 import Peer
from tests.server.test_checks import HELLO


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
    "a peer that is refused does not read why",
    "its call is ended all the same",
)
def test_who_does_not_read_the_farewell_has_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower, "GREETING_SECONDS", 20.0)
    monkeypatch.setattr(flower, "WORD_SECONDS", 0.5)
    address = f"127.0.0.1:{free_port()}"
    roster = roster_in(tmp_path)
    greeting = {"message": Scalar(string=roster.admission.greeting().model_dump_json())}
    asked = ServerMessage(get_properties_ins=ServerMessage.GetPropertiesIns(config=greeting))
    room = 5 + asked.ByteSize()  # gRPC's frame; nothing fits behind it
    other_size = HELLO.model_copy(update={"image_size": HELLO.image_size + 1})

    def work() -> None:
        peer = Peer(address, streams=1, window=room)
        wait_until(lambda: len(peer.received.get(1, b"")) == room, 10)
        peer.say(1, hello_of(other_size).SerializeToString())
        wait_until(lambda: 1 in peer.ended, 10)
        assert len(peer.received[1]) == room
        peer.close()

    serve(roster, address, None, work)


class Newcomer:
    """A hospital that says hello and does no work."""

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
    "strangers say hello at once, each with as much as a message may hold",
    "two of them are read at a time, and none is listened to",
)
def test_large_hellos_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    service = flower._Service(roster_in(tmp_path))
    large = hello_of(HELLO)
    large.get_properties_res.properties["more"].string = "x" * flower.HELLO_BYTES
    go_on, lock = threading.Event(), threading.Lock()
    asked: list[int] = []
    reading = [0]
    most = [0]

    def answers() -> Iterator[ClientMessage]:
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
    wait_until(lambda: len(asked) == 6 and reading[0] == 2)
    go_on.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert most == [2]
    assert len(asked) == 6  # the greeting, and nothing after it
