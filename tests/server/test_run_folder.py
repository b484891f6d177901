import json
from pathlib import Path

import pytest

from common.checkpoint import Provenance, read_checkpoint
from common.errors import BadInput
from common.model import build_model, state_of
from server.run_folder import KEPT_CHECKPOINTS, RunFolder
from tests.helpers import same_bits


def test_only_the_last_checkpoints_are_kept_and_copies_are_whole(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {"rounds": 5})
    states = [state_of(build_model("densenet-tiny", seed)) for seed in range(6)]
    for number in range(1, 6):
        folder.write_checkpoint(
            number, states[number], "densenet-tiny", Provenance(method="fedavg", round=number)
        )
    folder.copy_checkpoint(5, "final.pt")
    kept = sorted(file.name for file in (folder.path / "checkpoints").iterdir())
    assert kept == [f"round-{n:04d}.pt" for n in range(6 - KEPT_CHECKPOINTS, 6)]
    state, provenance = read_checkpoint(folder.path / "final.pt", "densenet-tiny", 0)
    assert same_bits(state, states[5])
    assert provenance is not None
    assert provenance.round == 5


def test_a_folder_with_a_run_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rounds.jsonl").write_text("{}\n")
    with pytest.raises(BadInput, match="not empty"):
        RunFolder.create(tmp_path, {})
    assert [file.name for file in tmp_path.iterdir()] == ["rounds.jsonl"]


def test_lines_are_json_and_status_replaces_itself(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {"seed": 0})
    folder.write_round({"round": 1, "auc": None})
    folder.write_round({"round": 2, "auc": 0.5})
    lines = (folder.path / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2]
    folder.write_status("running", round=1)
    folder.write_status("finished", round=2)
    assert json.loads((folder.path / "status.json").read_text())["state"] == "finished"
    with pytest.raises(ValueError, match="JSON compliant"):
        folder.write_round({"auc": float("nan")})
