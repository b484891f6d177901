import logging
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load
from server.run.report import page

from common.errors import BadInput
from common.findings import FINDINGS
from common.protocol import Instruction, Reply
from common.runtime.files import now, write_json
from common.wire import fingerprint, pack
from server.run.records import RunStatus
from tests.support.commands import assert_one_line, run
from tests.support.hospitals import lost, plan_of, rounds_of
from tests.support.pages import rows_of
from tests.support.shards import make_hospitals

CONFIG = {
    "run_id": "<b>",
    "rounds": 2,
    "architecture": "densenet-tiny",
    "mode": "finetune",
    "init": "/x/start.pt",
    "strategy": "fedavg",
    "local_epochs": 1,
    "lr": 0.05,
    "batch_size": 16,
    "label_fraction": 0.5,
    "seed": 5,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shards = make_hospitals(tmp_path / "data", 3)
    rounds = rounds_of(plan_of(rounds=3), shards, tmp_path / "run", {"hospital-01": lost})
    result = rounds.run()
    done, validation = result.rounds, result.validation
    rounds.folder.status.end(RunStatus(state="finished", rounds=done, validation=validation))
    write_json(tmp_path / "run" / "config.json", CONFIG)
    return tmp_path / "run"


def test_a_hospital_that_was_left_out_stands_at_the_top(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shards = make_hospitals(tmp_path / "data", 3)
    rounds = rounds_of(plan_of(rounds=4), shards, tmp_path / "run", {"hospital-01": spoiled})
    result = rounds.run()
    write_json(tmp_path / "run" / "config.json", CONFIG)
    rounds.folder.status.end(RunStatus(state="finished", rounds=result.rounds))
    text = page(tmp_path / "run")
    what = "hospital-01: excluded, rejected in 3 of 4 rounds (tensor &#x27;&lt;b"
    assert text.index("Not every hospital counts") < text.index("<table")
    assert what in text
    assert "4 rounds are done; not every hospital counts: hospital-01: excluded" in (
        caplog.records[-1].getMessage()
    )


def spoiled(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
    """Return weights with a tensor that no model has; its name is no HTML."""
    if instruction.task == "evaluate":
        return reply, blob
    blob = pack({**load(blob), "<b>": np.zeros(1)})
    return reply.model_copy(update={"weights": fingerprint(blob)}), blob


def test_the_page_has_every_finding_and_every_hospital(folder: Path) -> None:
    text = page(folder)
    rows = rows_of(text)
    assert rows["Rounds"] == ["3 of 3"]
    assert rows["Model"] == ["densenet-tiny, finetune, from start.pt"]
    assert {finding.replace("_", " ") for finding in FINDINGS} <= rows.keys()
    assert rows["hospital-00"][1:4] == ["3 of 3", "0", "0"]
    assert rows["hospital-01"][:4] == ["-", "0 of 3", "3", "0"]
    assert "<svg" in text
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    assert not re.findall(r'(?:src|href)="(?!#)', text)


def test_a_run_that_was_stopped_is_measured_by_what_it_was_to_do_last(folder: Path) -> None:
    stopped = {"state": "stopped", "time": now(), "reason": "SIGTERM", "rounds": 5}
    write_json(folder / "status.json", stopped)
    rows = rows_of(page(folder))
    assert rows["Rounds"] == ["3 of 5"]


def test_the_command_writes_it(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    result = run("flower-report", folder, "--out", out)
    assert (result.returncode, result.stdout) == (0, f"{out}\n"), result.stderr
    assert out.read_text() == page(folder)
    assert_one_line(run("flower-report", folder, "--out", tmp_path), 2, "give --out another file")


def test_a_file_that_says_something_else_is_named_or_left_out(folder: Path) -> None:
    for name in ("events.jsonl", "status.json", "rounds.jsonl", "config.json"):
        whole = (folder / name).read_bytes()
        for content in ("[]\n", "{}\n", "5\n"):
            (folder / name).write_text(content)
            with suppress(BadInput):
                page(folder)
        (folder / name).write_bytes(whole)
    (folder / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="restore it from a backup"):
        page(folder)


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    result = run("flower-report", tmp_path, "--out", tmp_path / "report.html")
    assert_one_line(result, 2, "config.json", "name the folder of a run")
