import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from common.checkpoint import read_checkpoint
from common.errors import BadInput
from common.model import build_model, state_of
from common.provenance import Provenance
from common.readings import aucs_of
from server.run.config import hashes_of, in_force
from server.run.events import Changed, Resumed
from server.run.folder import KEPT_CHECKPOINTS, RunFolder
from server.run.records import RoundRecord, RunStatus, read_rounds, read_run_status
from tests.support.histograms import histograms_with
from tests.support.records import HOSPITAL, round_record
from tests.support.states import same_bits
from tests.support.users import as_nobody, needs_root


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


@needs_root
def test_a_run_of_another_user_is_not_told_as_none(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", {"run_id": "x"}).log.close()
    said = as_nobody(lambda: RunFolder.reopen(tmp_path / "run", {"run_id": "x"}).log.close())
    assert said.endswith(
        "config.json: Permission denied; the user 65534 has to be allowed to: chown it"
    )


def test_a_folder_with_a_run_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rounds.jsonl").write_text("{}\n")
    with pytest.raises(BadInput, match="not empty"):
        RunFolder.create(tmp_path, {})
    assert [file.name for file in tmp_path.iterdir()] == ["rounds.jsonl"]


def test_lines_are_json_and_status_replaces_itself(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {"seed": 0})
    folder.write_round(round_record(1))
    folder.write_round(round_record(2, auc=0.5))
    lines = (folder.path / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2]
    folder.status.write(RunStatus(state="running", round=1))
    folder.status.end(RunStatus(state="finished", round=2))
    assert json.loads((folder.path / "status.json").read_text())["state"] == "finished"
    with pytest.raises(ValidationError, match="finite"):
        folder.write_round(round_record(3, auc=float("nan")))


def test_intervals_are_on_disk_alone_once_a_round_is_written(tmp_path: Path) -> None:
    told = HOSPITAL.model_copy(update={"auc_intervals": aucs_of(histograms_with(0.7))})
    whole = [round_record(number, hospitals={"a": told}) for number in (1, 2)]
    lean = [round_record(number) for number in (1, 2)]
    folder = RunFolder.create(tmp_path / "run", {"run_id": "x"})
    observed: list[RoundRecord] = []
    folder.observers.append(observed.append)
    folder.hold(whole[0])
    folder.write_round(whole[0])
    folder.keep_open(whole[1])
    assert folder.rounds() == lean
    assert (observed, read_rounds(folder.path)) == (whole[:1], whole[:1])
    folder.log.close()
    again = RunFolder.reopen(folder.path, {"run_id": "x"})
    assert again.rounds() == lean
    assert again.open_round == whole[1], "which is still to be written"


def test_whoever_ever_took_part_is_known(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    assert folder.hospitals() == set()
    for number, (bad, away) in enumerate((("b", "c"), ("d", "e")), start=1):
        others = {"rejected": {bad: "why"}, "missing": [away]}
        folder.write_round(round_record(number, hospitals={"a": HOSPITAL}, **others))
    assert folder.hospitals() == set("abcde")


def test_only_what_does_not_decide_the_result_may_change(tmp_path: Path) -> None:
    config = {"rounds": 5, "lr": 0.1, "init": "random", "run_id": "a", "listen": "a:1"}
    RunFolder.create(tmp_path / "run", config).log.close()
    changed = config | {"rounds": 7, "run_id": "b", "listen": "b:2", "max_examples": 9}
    changed |= {"share_model": False}
    again = RunFolder.reopen(tmp_path / "run", changed)
    assert again.config == config
    again.log.close()
    for change in ({"lr": 0.2}, {"init": "imagenet"}, {"label_fraction": 0.5}):
        (name,) = change
        option = name.replace("_", "-")
        with pytest.raises(BadInput, match=f"--{option} is .*, but the run was started with"):
            RunFolder.reopen(tmp_path / "run", config | change)


def test_a_change_that_was_asked_for_holds_from_then_on(tmp_path: Path) -> None:
    config = {"lr": 0.1, "batch_size": 64, "run_id": "a"}
    folder = RunFolder.create(tmp_path / "run", config)
    folder.write_round(round_record(1))
    folder.change("lr", 0.05)
    folder.change("lr", 0.02)
    folder.log.close()
    (first, second) = [event for event in folder.events() if isinstance(event, Changed)]
    assert (first.round, first.option, first.old, first.new) == (1, "lr", 0.1, 0.05)
    assert (second.round, second.old, second.new) == (1, 0.05, 0.02)
    for lr in (0.1, 0.02):  # as it was started, or as it is now
        again = RunFolder.reopen(tmp_path / "run", config | {"lr": lr})
        assert in_force(again.config) == {"lr": 0.02}
        again.log.close()
    with pytest.raises(BadInput, match=r"add --change lr=0\.05, or start another run"):
        RunFolder.reopen(tmp_path / "run", config | {"lr": 0.05})


def test_inputs_are_compared_by_their_content(tmp_path: Path) -> None:
    model, shard = tmp_path / "a.pt", tmp_path / "test"
    model.write_bytes(b"model")
    shard.mkdir()
    (shard / "manifest.json").write_text("films")

    def config(init: Path, test: Path) -> dict[str, Any]:
        return {"run_id": "a", "init": str(init), "test": str(test)} | hashes_of(str(init), test)

    folder = RunFolder.create(tmp_path / "run", config(model, shard))
    folder.log.close()
    moved, elsewhere = tmp_path / "b.pt", tmp_path / "elsewhere"
    model.rename(moved)
    shard.rename(elsewhere)
    RunFolder.reopen(tmp_path / "run", config(moved, elsewhere)).log.close()
    with pytest.raises(BadInput, match=r"--init .*a.pt: is not the file or folder"):
        RunFolder.reopen(tmp_path / "run", config(model, elsewhere))
    model.write_bytes(b"other")
    with pytest.raises(BadInput, match=r"--init .*a.pt: has other content \(sha256"):
        RunFolder.reopen(tmp_path / "run", config(model, elsewhere))
    shard.mkdir()
    (shard / "manifest.json").write_text("other films")
    with pytest.raises(BadInput, match=r"--test .*: has other content"):
        RunFolder.reopen(tmp_path / "run", config(moved, shard))
    model.unlink()
    folder.write_round(round_record(1))  # the first model is not needed any more
    RunFolder.reopen(tmp_path / "run", config(model, elsewhere)).log.close()


def test_a_run_whose_process_was_killed_is_not_told_as_running(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    folder.status.write(RunStatus(state="running", round=1, rounds=2))
    assert read_run_status(folder.path).state == "running"
    folder.log.close()
    status = read_run_status(folder.path)
    assert (status.state, status.round) == ("stopped", 1)
    assert status.reason == "running when its process was killed; flower-server --resume goes on"


@needs_root
def test_a_run_that_goes_on_is_not_told_as_killed_to_other_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    folder.status.write(RunStatus(state="running", round=1, rounds=2))
    monkeypatch.chdir(folder.path)  # the folders above are closed to others
    assert (folder.path / "audit.jsonl").stat().st_mode & 0o077 == 0

    def look() -> None:
        assert read_run_status(Path()).state == "running"

    assert as_nobody(look) == "fine"
    folder.log.close()


def test_what_was_half_written_is_dropped_when_a_run_goes_on(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    folder.write_round(round_record(1))
    for name in ("round-0001.pt", "round-0002.pt", ".round-0002.pt.7.tmp"):
        (folder.path / "checkpoints" / name).write_bytes(b"x")
    (folder.path / ".best.pt.7.tmp").write_bytes(b"x")
    with (folder.path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 2')
    folder.log.close()
    again = RunFolder.reopen(folder.path, {})
    assert again.rounds() == [round_record(1)]
    assert [file.name for file in (folder.path / "checkpoints").iterdir()] == ["round-0001.pt"]
    assert not list(folder.path.glob("*.tmp"))
    assert not list(folder.path.glob(".*.tmp"))


def test_events_do_not_decide_whether_a_run_goes_on(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    folder.log.close()
    events = folder.path / "events.jsonl"
    events.write_text('{"event": {"event": "left"}\n5\n[1]\n{"event": "joi')
    again = RunFolder.reopen(folder.path, {})
    assert again.events() == []
    again.log.record(Resumed(round=1))
    lines = events.read_text().splitlines()
    assert lines[0] == '{"event": {"event": "left"}'
    assert [json.loads(line)["event"] for line in lines[3:]] == ["resumed"]


@pytest.mark.parametrize("content", ["[]", "5", "{", '{"state": "running"}'])
def test_a_status_that_does_not_say_so_is_not_finished(tmp_path: Path, content: str) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    (folder.path / "status.json").write_text(content)
    assert not folder.is_finished(5)
