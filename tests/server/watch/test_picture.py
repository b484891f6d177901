"""The picture of a recorded run; ``pictures/`` has what a person has looked at and found right."""

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

from common.findings import FINDINGS
from server.run.live import HospitalLive, Phase
from server.run.records import RunStatus, Validation
from server.run.snapshot import Snapshot, snapshot_of
from server.watch.view import PHASES, Picture
from tests.support.recorded import LIVE, NOW, ago, record_run
from tests.support.records import HOSPITAL, round_record

PICTURES = Path(__file__).parent / "pictures"


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def taken(run: Path) -> Snapshot:
    return snapshot_of(run).model_copy(update={"time": NOW})


def drawn(snapshot: Snapshot, width: int, findings: bool = False, height: int = 40) -> str:
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None
    )
    console.print(Picture(snapshot, findings))
    assert isinstance(console.file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in console.file.getvalue().splitlines())


@pytest.mark.parametrize(("width", "findings"), [(80, False), (160, True)])
def test_a_run_that_goes_on_looks_as_it_should(tmp_path: Path, width: int, findings: bool) -> None:
    folder = record_run(tmp_path / "run")
    picture = drawn(taken(folder.path), width, findings)
    assert picture == (PICTURES / f"running-{width}.txt").read_text()
    assert max(map(len, picture.splitlines())) <= width


@pytest.mark.parametrize("end", ["finished", "killed"])
def test_a_run_that_is_over_looks_as_it_should(tmp_path: Path, end: str) -> None:
    folder = record_run(tmp_path / "run")
    if end == "finished":
        last = Validation(auc=0.6, auc_by_finding=dict.fromkeys(FINDINGS, 0.6))
        folder.status.end(RunStatus(state="finished", rounds=12, best_round=10, validation=last))
    folder.log.close()
    assert drawn(taken(folder.path), 80) == (PICTURES / f"{end}-80.txt").read_text()


def test_a_run_of_which_nothing_is_done_yet_is_drawn(tmp_path: Path) -> None:
    live = LIVE.model_copy(
        update={"round": 0, "attempt": 0, "phase": "waiting", "since": ago(5), "needed": 10}
    )
    folder = record_run(tmp_path / "run", rounds=0, live=live)
    picture = drawn(taken(folder.path), 80)
    assert "waiting for hospitals (3 of 10 are there), for 5 s\n" in picture
    assert "AUC  " not in picture.split("gone since")[1]


def test_a_run_without_live_json_is_drawn_without_what_hospitals_do(tmp_path: Path) -> None:
    folder = record_run(tmp_path / "run", live=None)
    (folder.path / "live.json").write_text('{"round": 1')
    picture = drawn(taken(folder.path), 80)
    assert "does" not in picture
    assert "charite" in picture


def test_hospitals_that_hold_the_round_up_come_first_where_there_is_no_room(tmp_path: Path) -> None:
    many = {f"h-{i:03}": HospitalLive(doing="done", since=NOW) for i in range(100)}
    many["h-077"] = HospitalLive(doing="training", since=NOW, share=0.5)
    many["h-088"] = HospitalLive(doing="gone", since=NOW)
    live = LIVE.model_copy(update={"hospitals": many})
    folder = record_run(tmp_path / "run", live=live)
    lines = drawn(taken(folder.path), 80, height=24).splitlines()
    first = lines.index(next(line for line in lines if line.startswith("hospital ")))
    assert [line.split()[0] for line in lines[first + 1 : first + 4]] == ["h-088", "h-077", "h-000"]
    assert "and 95 more hospitals" in lines
    assert len(lines) <= 24


def test_nothing_that_a_hospital_says_reaches_the_terminal_as_a_command(tmp_path: Path) -> None:
    bad = HospitalLive(doing="rejected", since=NOW, reason="\x1b[2J[red]\x07 x")
    folder = record_run(tmp_path / "run", live=LIVE.model_copy(update={"hospitals": {"a": bad}}))
    picture = drawn(taken(folder.path), 80)
    assert "?[2J[red]? x" in picture
    assert not set(picture) & {"\x1b", "\x07"}


def test_a_terminal_that_has_ascii_alone_gets_ascii(tmp_path: Path) -> None:
    folder = record_run(tmp_path / "run")
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", errors="replace")
    Console(file=file, width=80, force_terminal=True, color_system=None).print(
        Picture(taken(folder.path), findings=True)
    )
    file.flush()
    assert b"training ###....." in raw.getvalue()


def test_a_reply_that_was_behind_is_marked(tmp_path: Path) -> None:
    folder = record_run(tmp_path / "run", rounds=2)
    late = {"ucsf": HOSPITAL.model_copy(update={"stale": 2})}
    folder.write_round(round_record(3, hospitals=late))
    (row,) = (
        line
        for line in drawn(taken(folder.path), 160).splitlines()
        if line.startswith("ucsf ") and "since" not in line
    )
    assert row.endswith(" 3, 2 behind")


@pytest.mark.parametrize("phase", get_args(Phase))
def test_every_phase_has_words_and_what_is_not_told_is_a_dash(tmp_path: Path, phase: Phase) -> None:
    folder = record_run(tmp_path / "run")
    run = taken(folder.path)
    assert run.live is not None
    untold = {"examples": None, "loss": None, "images_per_second": None}
    hospitals = {name: each.model_copy(update=untold) for name, each in run.hospitals.items()}
    live = run.live.model_copy(update={"phase": phase})
    picture = drawn(run.model_copy(update={"live": live, "hospitals": hospitals}), 160)
    assert PHASES[phase] in picture
    assert "None" not in picture
