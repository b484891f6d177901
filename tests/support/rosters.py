"""A roster of a test, what a hospital says to it, and what it has written."""

import json
from pathlib import Path

from flwr.proto.transport_pb2 import ClientMessage, Scalar

from common.protocol import Greeting, Hello
from server.members.admission import Admission
from server.members.roster import Roster
from server.run.folder import RunFolder
from tests.support.messages import HELLO


def hello_of(words: Hello) -> ClientMessage:
    properties = {"message": Scalar(string=words.model_dump_json())}
    return ClientMessage(get_properties_res=ClientMessage.GetPropertiesRes(properties=properties))


def events_of(folder: RunFolder) -> list[str]:
    file = folder.path / "events.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["event"] for line in lines]


def roster_in(tmp_path: Path) -> Roster:
    folder = RunFolder.create(tmp_path / "run", {})
    return Roster(Admission(Greeting(run="r", seed=0), HELLO.image_size, folder), folder)
