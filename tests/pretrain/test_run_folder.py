import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import BadInput
from pretrain.run_folder import RunFolder

CONFIG: dict[str, Any] = {"epochs": 3, "views": ({"flip": 0.5},)}


STATE: dict[str, Any] = {"step": 0, "parameters": {}, "buffers": {}, "optimizer": {}}


def folder_in(path: Path) -> RunFolder:
    path.mkdir(exist_ok=True)
    return RunFolder(path)


def test_what_comes_after_the_last_save_is_forgotten_and_so_is_a_torn_line(tmp_path: Path) -> None:
    folder = folder_in(tmp_path / "a.run")
    folder.begin(CONFIG, tmp_path / "a.pt", resume=True)
    for step in (10, 20, 30):
        folder.write_metrics({"step": step, "loss": 1.0})
    folder.write_state(STATE | {"step": 20})
    metrics = folder.path / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"step": 40, "lo')
    folder_in(tmp_path / "a.run").begin(CONFIG, tmp_path / "a.pt", resume=True)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [10, 20]


def test_a_run_that_was_killed_before_its_first_save_begins_anew(tmp_path: Path) -> None:
    folder = folder_in(tmp_path / "a.run")
    folder.begin(CONFIG, tmp_path / "a.pt", resume=True)
    folder.write_metrics({"step": 10, "loss": 1.0})
    again = folder_in(tmp_path / "a.run")
    again.begin(CONFIG, tmp_path / "a.pt", resume=True)
    assert again.read_state() is None
    assert (again.path / "metrics.jsonl").read_text() == ""


def test_the_same_config_is_the_same_after_json(tmp_path: Path) -> None:
    folder_in(tmp_path / "a.run").begin(CONFIG, tmp_path / "a.pt", resume=True)
    folder_in(tmp_path / "a.run").begin(CONFIG, tmp_path / "a.pt", resume=True)
    with pytest.raises(BadInput, match=r"epochs was 3 .* is 4 now"):
        folder_in(tmp_path / "a.run").begin(CONFIG | {"epochs": 4}, tmp_path / "a.pt", resume=True)
    flipped = CONFIG | {"views": [{"flip": 0.1}]}
    with pytest.raises(BadInput, match=r"views\.0\.flip was 0\.5 .* is 0\.1 now"):
        folder_in(tmp_path / "a.run").begin(flipped, tmp_path / "a.pt", resume=True)
    with pytest.raises(BadInput, match="queue was None"):
        folder_in(tmp_path / "a.run").begin(CONFIG | {"queue": 4}, tmp_path / "a.pt", resume=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{cut"),
        ("trainer.pt", "{cut"),
        ("trainer.pt", "hello, no state\n"),
        ("metrics.jsonl", '{cut\n{"step": 1}\n'),
        ("metrics.jsonl", '{"loss": 1}\n'),
        ("metrics.jsonl", "3\n"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    folder = folder_in(tmp_path / "a.run")
    folder.begin(CONFIG, tmp_path / "a.pt", resume=True)
    (folder.path / name).write_text(content)
    with pytest.raises(BadInput, match=rf"{name}: damaged"):
        folder_in(tmp_path / "a.run").begin(CONFIG, tmp_path / "a.pt", resume=True)


@pytest.mark.parametrize("content", [{"step": 3}, [1]])
def test_a_state_with_something_missing_is_damaged(tmp_path: Path, content: object) -> None:
    folder = folder_in(tmp_path / "a.run")
    folder.begin(CONFIG, tmp_path / "a.pt", resume=True)
    torch.save(content, folder.path / "trainer.pt")
    with pytest.raises(BadInput, match=r"trainer\.pt: damaged"):
        folder.read_state()


def test_a_state_that_cannot_be_read_is_not_said_to_be_damaged(tmp_path: Path) -> None:
    folder = folder_in(tmp_path / "a.run")
    (folder.path / "trainer.pt").mkdir()
    with pytest.raises(BadInput, match=r"trainer\.pt: cannot be read: Is a directory"):
        folder.read_state()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "a.pt"
    with (
        RunFolder(tmp_path / "a.run").held(out),
        pytest.raises(BadInput, match="another process"),
        RunFolder(tmp_path / "a.run").held(out),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BadInput, match="cannot be made"),
        RunFolder(tmp_path / "file" / "a.run").held(tmp_path / "file" / "a.pt"),
    ):
        pass


def test_a_run_goes_on_without_the_metrics_that_were_damaged(tmp_path: Path) -> None:
    folder = folder_in(tmp_path / "a.run")
    folder.begin(CONFIG, tmp_path / "a.pt", resume=True)
    folder.write_state(STATE | {"step": 20})
    metrics = folder.path / "metrics.jsonl"
    metrics.write_text('{"step": 10}\n{cut\n{"step": 20}\n')
    with pytest.raises(BadInput, match="move it away and go on with --resume"):
        folder_in(tmp_path / "a.run").begin(CONFIG, tmp_path / "a.pt", resume=True)
    metrics.rename(tmp_path / "metrics.jsonl")
    again = folder_in(tmp_path / "a.run")
    again.begin(CONFIG, tmp_path / "a.pt", resume=True)
    state = again.read_state()
    assert state is not None
    assert state["step"] == 20
    again.write_metrics({"step": 30, "loss": 1.0})
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [30]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    out = tmp_path / "a.pt"
    out.write_bytes(b"weeks of work")
    with pytest.raises(BadInput, match=r"a\.pt: exists, but has no state"):
        folder_in(tmp_path / "a.run").begin(CONFIG, out, resume=True)
    out.unlink()
    folder_in(tmp_path / "a.run").begin(CONFIG, out, resume=False)
    with pytest.raises(BadInput, match="a run exists"):
        folder_in(tmp_path / "a.run").begin(CONFIG, out, resume=False)


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    folder = folder_in(tmp_path / "a.run")
    names = ("trainer.pt", "config.json", "status.json", "metrics.jsonl")
    left = [tmp_path / ".a.pt.123.tmp", *(folder.path / f".{name}.123.tmp" for name in names)]
    others = [tmp_path / ".b.pt.123.tmp", tmp_path / "a.pt.tmp"]
    for path in left + others:
        path.write_bytes(b"half")
    folder.begin(CONFIG, tmp_path / "a.pt", resume=True)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)


def test_an_error_of_the_block_is_not_taken_for_a_lock(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), RunFolder(tmp_path / "a.run").held(tmp_path / "a.pt"):
        raise BlockingIOError


def test_a_run_goes_on_without_tensorboard_if_that_cannot_write(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.run").mkdir()
    folder = RunFolder(tmp_path / "a.run", ["tensorboard"])
    (folder.path / "tensorboard").write_text("a file where its folder should be")
    folder.begin(CONFIG, tmp_path / "a.pt", resume=False)
    for step in (10, 20):
        folder.write_metrics({"step": step, "loss": 1.0})
    assert len((folder.path / "metrics.jsonl").read_text().splitlines()) == 2
    folder.close("finished")
    assert caplog.text.count("TensorBoard cannot be written") == 1


def test_more_epochs_after_the_end_are_another_run_from_its_checkpoint(tmp_path: Path) -> None:
    folder, out = folder_in(tmp_path / "a.run"), tmp_path / "a.pt"
    folder.begin(CONFIG, out, resume=False)
    again = {**CONFIG, "epochs": 5}
    with pytest.raises(BadInput, match="give the same options, or another --out"):
        folder.begin(again, out, resume=True)
    folder.write_state(STATE)
    out.write_bytes(b"checkpoint")
    with pytest.raises(BadInput, match=f"for more epochs, give --init {out} and another --out"):
        folder.begin(again, out, resume=True)
