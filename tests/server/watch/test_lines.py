"""What is said of a run line by line, between two looks at it."""

from pathlib import Path

from common.findings import FINDINGS
from server.run.live import HospitalLive, Live
from server.run.records import RunStatus, Validation
from server.run.snapshot import Snapshot, snapshot_of
from server.watch.lines import changes
from tests.support.recorded import LIVE, NOW, record_run
from tests.support.records import HOSPITAL, round_record


def with_live(run: Snapshot, **changes: object) -> Snapshot:
    assert run.live is not None
    return run.model_copy(update={"live": run.live.model_copy(update=changes), "time": NOW})


def test_the_first_look_says_where_the_run_stands(tmp_path: Path) -> None:
    folder = record_run(tmp_path / "run")
    assert [*changes(None, snapshot_of(folder.path))] == [
        "run 0123456789ab, densenet121, fedavg: running, 12 of 50 rounds are done",
        "round 13, attempt 2: the hospitals work",
        "hospital-of-the-northern-coast rejected: tensor conv0.weight is not finite",
        "ucsf gone: no reply before the deadline",
    ]


def test_another_run_at_the_same_address_begins_anew(tmp_path: Path) -> None:
    earlier, later = record_run(tmp_path / "one", rounds=2), record_run(tmp_path / "two", rounds=7)
    before, now = snapshot_of(earlier.path), snapshot_of(later.path)
    other = now.model_copy(update={"run": "f" * 12})
    assert [*changes(before, other)] == [*changes(None, other)]
    assert next(changes(before, other)).startswith("run ffffffffffff, densenet121, fedavg: running")


def test_nothing_new_is_no_line_and_neither_are_batches(tmp_path: Path) -> None:
    folder = record_run(tmp_path / "run")
    run = with_live(snapshot_of(folder.path))
    assert [*changes(run, run)] == []
    scoring = HospitalLive(doing="scoring", since=NOW, share=0.9)
    assert run.live is not None
    later = with_live(run, hospitals={**run.live.hospitals, "charite": scoring})
    assert [*changes(run, later)] == []


def test_a_round_a_hospital_that_is_back_and_the_end_are_a_line_each(tmp_path: Path) -> None:
    earlier = record_run(tmp_path / "before", rounds=6)
    before = with_live(snapshot_of(earlier.path))
    back = {**LIVE.hospitals, "ucsf": HospitalLive(doing="waiting", since=NOW)}
    live: Live = LIVE.model_copy(update={"round": 8, "attempt": 1, "hospitals": back})
    folder = record_run(tmp_path / "after", rounds=7, live=live)
    now = with_live(snapshot_of(folder.path))
    assert [*changes(before, now)] == [
        "round 7 of 50: 3 hospitals in 1 min 07 s: loss 0.230, mean AUC 0.591 before it; "
        "best so far: round 6; about 45 min 53 s left; inselspital rejected: holds NaN",
        "round 8: the hospitals work",
        "ucsf is back",
    ]
    last = Validation(auc=0.6, auc_by_finding=dict.fromkeys(FINDINGS, 0.6))
    folder.status.end(RunStatus(state="finished", rounds=7, best_round=7, validation=last))
    over = snapshot_of(folder.path)
    assert [*changes(now, over)] == ["finished; 7 of 7 rounds, mean AUC 0.600"]


def test_late_replies_and_hospitals_that_are_still_busy_are_named(tmp_path: Path) -> None:
    folder = record_run(tmp_path / "run", rounds=2)
    before = snapshot_of(folder.path)
    late = {"a": HOSPITAL, "b": HOSPITAL.model_copy(update={"stale": 1})}
    folder.write_round(round_record(3, hospitals=late, busy=["c"]))
    (line,) = (text for text in changes(before, snapshot_of(folder.path)) if "round 3 of" in text)
    assert line.endswith("; b 1 round behind; c still busy")
