import json
from pathlib import Path

import pytest

from client.state import ClientState
from common.audit import verify
from common.errors import BadInput
from tests.support.disks import needs_root, small_disk


@needs_root
def test_what_cannot_be_noted_ends_the_client_and_there_is_room_to_say_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder = disk.path / "state"
        state = ClientState(folder, device="cpu")
        state.write_status("connecting")
        disk.fill()
        with pytest.raises(BadInput, match=f"{folder}: No space left on device; make room, or"):
            state.note("sent", padding="x" * 8192)
        with pytest.raises(BadInput, match="No space left"):
            state.write_status("working")
        state.end("failed", reason="full")
        status = json.loads((folder / "status.json").read_text())
        assert (status["state"], status["reason"], status["device"]) == ("failed", "full", "cpu")
        assert verify(folder / "audit.jsonl").number == 1


def test_the_end_is_final(tmp_path: Path) -> None:
    state = ClientState(tmp_path)
    state.end("stopped")
    state.write_status("working")
    state.end("failed")
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "stopped"
    assert verify(tmp_path / "audit.jsonl").number == 1
    assert not list(tmp_path.glob(".*"))


@needs_root
def test_an_end_that_cannot_be_written_is_no_further_fault(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        state = ClientState(disk.path)
        disk.fill()
        state.end("failed")
        assert not (disk.path / "status.json").exists()
