from pathlib import Path
from threading import Lock

import pytest

from client import progress
from common.protocol import Progress
from common.wire import pack
from experiments.launch.inprocess import InProcessConnection
from server.rounds.ask import Weights
from tests.support.hospitals import GREETING, STATE, hospital_of, instruction_of, plan_of
from tests.support.shards import make_shard


def test_progress_is_told_in_this_process_as_over_the_wire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "TELL_SECONDS", 0)
    connection = InProcessConnection(hospital_of(make_shard(tmp_path / "a").path), GREETING, Lock())
    told: list[Progress] = []
    instruction = instruction_of(plan_of(), 1)
    assert connection.ask(instruction, Weights(pack(STATE)), 60, told.append).status == "ok"
    assert {each.identity for each in told} == {instruction.identity}
    assert {each.phase for each in told} == {"scoring", "training"}
