import json
from pathlib import Path

import pytest

from common.errors import BadInput
from common.findings import FINDINGS
from common.readings import FindingAuc, Pooled
from server.run.events import Changed
from server.run.records import RunStatus, Validation
from server.run.run_config import RunConfig
from server.run.snapshot import Snapshot, snapshot_of
from tests.support.recorded import CONFIG, LIVE, NAMES, record_run


def test_a_snapshot_has_what_the_files_say_and_survives_the_wire(tmp_path: Path) -> None:
    folder = record_run(tmp_path / "run")
    now = snapshot_of(folder.path)
    assert (now.run, now.state, now.rounds, now.live) == ("0123456789ab", "running", 50, LIVE)
    assert [each.round for each in now.history] == list(range(1, 13))
    assert [model.mean for model in now.models] == [each.auc for each in folder.rounds()]
    assert now.history[4].missing == ["ucsf"]
    assert now.history[6].rejected == {"inselspital": "holds NaN"}
    assert now.history[6].images == 2 * (1000 + 2000 + 4000), "two epochs, without inselspital"
    assert now.history[6].bytes.received == 3 * 28_300_000
    assert list(now.hospitals) == sorted(NAMES)
    charite = now.hospitals["charite"]
    assert (charite.round, charite.images_per_second) == (12, 50)
    assert now.best_round == 9, "of the models that are scored; the last one is not yet"
    assert now.seconds_left == 38 * 70
    assert Snapshot.model_validate_json(now.model_dump_json()) == now


def test_memory_knows_better_than_the_file(tmp_path: Path) -> None:
    folder = record_run(tmp_path / "run")
    later = LIVE.model_copy(update={"round": 14})
    assert snapshot_of(folder.path, later).live == later


def test_a_run_that_was_killed_is_told_as_stopped_and_nobody_is_at_work(tmp_path: Path) -> None:
    folder = record_run(tmp_path / "run")
    folder.log.close()
    now = snapshot_of(folder.path)
    assert (now.state, now.live, now.seconds_left) == ("stopped", None, None)
    assert "--resume" in now.reason


def test_pooled_aucs_stand_beside_the_means(tmp_path: Path) -> None:
    folder = record_run(tmp_path / "run", rounds=2)
    of_all = Pooled(
        auc=0.7,
        by_finding={
            finding: FindingAuc(auc=0.7, low=0.6, high=0.8, bound=0, positives=9, negatives=9)
            for finding in FINDINGS
        },
    )
    mean = Validation(auc=0.6, auc_by_finding=dict.fromkeys(FINDINGS, 0.6))
    folder.status.end(
        RunStatus(state="finished", rounds=2, best_round=2, validation=mean, pooled=of_all)
    )
    last = snapshot_of(folder.path).models[-1]
    assert (last.mean, last.pooled, last.by_finding["Mass"]) == (0.6, 0.7, 0.7)


def test_a_run_that_was_never_started_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="name the folder of a run that was started"):
        snapshot_of(tmp_path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"run_id": "abc", "models": []}, r"run: is the folder of an evaluation; its table is .*"),
        (
            {"run_id": "abc", "method": "mocov2"},
            r"config\.json: is of no run; name the folder of a",
        ),
        ({"run_id": "abc", "rounds": "two"}, r"config\.json: .*; restore it from a backup$"),
    ],
)
def test_a_folder_of_something_else_is_told(
    tmp_path: Path, content: dict[str, object], why: str
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=why):
        snapshot_of(tmp_path / "run")


def test_epochs_that_were_changed_count_from_the_next_round_on() -> None:
    change = Changed(round=3, option="local_epochs", old=2, new=4).fields()
    other = Changed(round=4, option="lr", old=1, new=2).fields()
    config = RunConfig.model_validate({**CONFIG, "changes": [change, other]})
    assert [config.epochs_in(number) for number in (1, 3, 4, 9)] == [2, 2, 4, 4]
