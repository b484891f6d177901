"""The service on a real socket, with a roster of which a test chooses when it lets in."""

import json
import threading
from pathlib import Path
from queue import SimpleQueue

import grpc
import pytest
from flwr.proto.transport_pb2 import ClientMessage, Scalar
from flwr.proto.transport_pb2_grpc import FlowerServiceStub

from common.protocol import Greeting, Hello
from experiments.local import free_port
from server.admission import Admission
from server.flower import seal, serve
from server.roster import Roster
from server.run_folder import RunFolder
from tests.federation.test_federation import wait_until
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
