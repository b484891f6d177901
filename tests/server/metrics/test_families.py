from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.findings import FINDINGS
from common.readings import FindingAuc, Pooled
from common.scores import Scores
from server.metrics.families import Facts, families_of
from server.metrics.names import METRICS, PREFIX
from server.metrics.rejections import REASONS
from server.run.events import (
    Event,
    Excluded,
    FinalModel,
    Joined,
    Left,
    Lost,
    Repeated,
    ReplyRejected,
)
from server.run.live import HospitalLive, Live
from server.run.records import (
    Bytes,
    HospitalRecord,
    RoundRecord,
    RoundSeconds,
    RunStatus,
    Validation,
)
from server.run.run_config import RunConfig
from tests.support.records import HOSPITAL, round_record

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = RunConfig(
    run_id="abc",
    init="/secret/place/first.pt",
    rounds=50,
    architecture="densenet-tiny",
    strategy="median",
    seed=5,
)

Samples = dict[tuple[str, ...], float]


def facts_of(folder: Path, rounds: list[RoundRecord], **changes: object) -> Facts:
    status = RunStatus(state="running", rounds=50)
    facts = Facts(folder, "1.2", CONFIG, status, None, rounds, [], NOW.timestamp())
    return facts._replace(**changes)  # type: ignore[arg-type]


def samples_of(facts: Facts) -> dict[str, Samples]:
    """Return the values by metric and by the values of its labels."""
    found: dict[str, Samples] = {}
    for family in families_of(facts):
        name = family.name.removeprefix(PREFIX)
        name += "_total" if family.type == "counter" else ""
        assert METRICS[name].kind == family.type
        for sample in family.samples:
            labels = tuple(sample.labels[label] for label in METRICS[name].labels)
            assert labels not in found.setdefault(name, {})
            found[name][labels] = sample.value
    return found


def told(**changes: object) -> HospitalRecord:
    return HOSPITAL.model_copy(update=changes)


def test_a_run_without_a_round_tells_what_it_is_and_no_score(tmp_path: Path) -> None:
    found = samples_of(facts_of(tmp_path, []))
    assert found["run_info"] == {
        ("abc", "1.2", "densenet-tiny", "median", "finetune", "first.pt"): 1
    }
    assert found["run_state"]["running",] == 1
    assert sum(found["run_state"].values()) == 1
    assert found["completed_rounds_total"] == {(): 0}
    assert found["planned_rounds"] == {(): 50}
    assert found["run_folder_free_bytes"][()] > 0
    assert not [name for name in found if "auc" in name or "loss" in name or "hospital" in name]


def test_what_a_hospital_does_not_tell_is_absent(tmp_path: Path) -> None:
    auc: dict[str, float | None] = dict.fromkeys(FINDINGS, 0.75)
    auc["Hernia"] = None
    open_one = told(auc=0.75, auc_by_finding=auc, validation_images=20)
    record = round_record(hospitals={"open": open_one, "closed": HOSPITAL}, auc_by_finding=auc)
    found = samples_of(facts_of(tmp_path, [record]))
    assert found["hospital_finding_auc"].keys() == {("open", f) for f in FINDINGS if f != "Hernia"}
    assert found["hospital_validation_auc"] == {("open",): 0.75}
    assert found["hospital_validation_images"] == {("open",): 20}
    assert ("mean", "Hernia") not in found["validation_finding_auc"]
    assert found["hospital_training_loss"].keys() == {("open",), ("closed",)}


def test_the_last_reply_counts_and_bytes_add_up(tmp_path: Path) -> None:
    rounds = [
        round_record(1, hospitals={"a": told(loss=2.0, bytes=Bytes(received=5, sent=7))}),
        round_record(2, hospitals={"a": told(loss=1.0, bytes=Bytes(received=50, sent=70))}),
        round_record(3, hospitals={}, missing=["a"]),
    ]
    found = samples_of(facts_of(tmp_path, rounds))
    assert found["hospital_training_loss"] == {("a",): 1.0}
    assert found["hospital_received_bytes_total"] == {("a",): 55}
    assert found["hospital_sent_bytes_total"] == {("a",): 77}


def test_while_a_model_is_scored_the_score_of_the_one_before_it_stands(tmp_path: Path) -> None:
    scores = Scores(images=9, loss=0.5, auc=0.7, auc_by_finding=dict.fromkeys(FINDINGS, 0.7))
    rounds = [round_record(1, test=scores), round_record(2, loss=0.25)]
    found = samples_of(facts_of(tmp_path, rounds))
    assert found["test_auc"] == {(): 0.7}
    assert len(found["test_finding_auc"]) == len(FINDINGS)
    assert found["training_loss"] == {(): 0.25}


@pytest.mark.parametrize(
    ("answers", "missed"),
    [("+++", 0), ("+--", 2), ("--+", 0), ("+x-", 2), ("---", 3), ("+ -", 1), ("+-  ", 1)],
)
def test_rounds_are_missed_until_a_reply_counts(tmp_path: Path, answers: str, missed: int) -> None:
    fields: dict[str, dict[str, object]] = {
        "+": {"hospitals": {"a": HOSPITAL, "b": HOSPITAL}},
        "-": {"hospitals": {"b": HOSPITAL}, "missing": ["a"]},
        "x": {"hospitals": {"b": HOSPITAL}, "rejected": {"a": "diverged"}},
        " ": {"hospitals": {"b": HOSPITAL}},
    }
    rounds = [round_record(n, **fields[answer]) for n, answer in enumerate(answers, start=1)]
    found = samples_of(facts_of(tmp_path, rounds))
    assert found["hospital_missed_rounds"] == {("a",): missed, ("b",): 0}


@pytest.mark.parametrize(
    ("durations", "usual"), [([9, 9], None), ([1, 9, 2], 2), (range(20), 14.5)]
)
def test_the_usual_time_is_the_median_of_the_last_ten_rounds(
    tmp_path: Path, durations: list[int], usual: float | None
) -> None:
    rounds = [
        round_record(
            number,
            seconds=RoundSeconds(hospitals=seconds, average=0, save=0, test=0, total=seconds),
        )
        for number, seconds in enumerate(durations, start=1)
    ]
    found = samples_of(facts_of(tmp_path, rounds))
    assert found["round_seconds"]["total",] == durations[-1]
    assert found.get("usual_round_seconds", {}).get(("total",)) == usual


def test_what_goes_on_beside_the_next_round_has_no_seconds_before_it_is_done(
    tmp_path: Path,
) -> None:
    rounds = [
        round_record(
            number, seconds=RoundSeconds(hospitals=9, average=0, save=save, test=0, total=9)
        )
        for number, save in enumerate([3, 0], start=1)
    ]
    found = samples_of(facts_of(tmp_path, rounds))["round_seconds"]
    assert (found["save",], found["average",], ("test",) in found) == (3, 0, False)


def test_the_best_model_is_the_one_that_hospitals_scored_best(tmp_path: Path) -> None:
    rounds = [round_record(n, auc=auc) for n, auc in enumerate([0.99, 0.7, 0.8, 0.75], start=1)]
    found = samples_of(facts_of(tmp_path, rounds))
    # The first AUC is that of the model that the run began with.
    assert (found["best_round"][()], found["best_validation_auc"]) == (2, {("mean",): 0.8})
    assert found["validation_auc"] == {("mean",): 0.75}
    last = Validation(auc=0.9, auc_by_finding=dict.fromkeys(FINDINGS))
    ended = RunStatus(state="finished", rounds=4, validation=last)
    found = samples_of(facts_of(tmp_path, rounds, status=ended))
    assert (found["best_round"][()], found["best_validation_auc"]) == (4, {("mean",): 0.9})
    assert found["validation_auc"] == {("mean",): 0.9}
    # It goes on, and is scored anew with the next round.
    final: list[Event] = [FinalModel(round=4, auc=0.9, pooled=None)]
    rounds.append(round_record(5, auc=0.6))
    found = samples_of(facts_of(tmp_path, rounds, events=final))
    assert (found["best_round"][()], found["best_validation_auc"]) == (4, {("mean",): 0.9})


def pooled_of(auc: float) -> Pooled:
    of = FindingAuc(auc=auc, low=None, high=None, bound=0, positives=1, negatives=1)
    return Pooled(auc=auc, by_finding=dict.fromkeys(FINDINGS, of))


@pytest.mark.parametrize(
    ("strategy", "best"), [("fedavg", {("pooled",): 0.7}), ("median", {("mean",): 0.6})]
)
def test_a_pooled_auc_stands_beside_the_mean_and_may_choose(
    tmp_path: Path, strategy: str, best: Samples
) -> None:
    aucs = [(0.5, 0.5), (0.6, 0.6), (0.55, 0.7)]
    rounds = [
        round_record(number, auc=mean, pooled=pooled_of(pooled))
        for number, (mean, pooled) in enumerate(aucs, start=1)
    ]
    config = CONFIG.model_copy(update={"strategy": strategy})
    found = samples_of(facts_of(tmp_path, rounds, config=config))
    assert found["validation_auc"] == {("mean",): 0.55, ("pooled",): 0.7}
    assert found["best_validation_auc"] == best
    assert found["validation_finding_auc"]["pooled", "Hernia"] == 0.7


def test_what_goes_wrong_is_counted_by_hospital_and_class(tmp_path: Path) -> None:
    where = {"round": 1, "attempt": 1}
    events: list[Event] = [
        ReplyRejected(site="a", reason="tensor x is not finite", **where),
        ReplyRejected(site="a", reason="tensor y is missing", **where),
        ReplyRejected(site="a", reason="Jane Doe", **where),
        Lost(site="b", reason="its connection was closed", **where),
        Repeated(hospitals=[], rejected=["a"], **where),
        Excluded(site="a", reason="tensor x is not finite"),
    ]
    found = samples_of(facts_of(tmp_path, [round_record()], events=events))
    expected = {(name, reason): 0.0 for name in "ab" for reason in REASONS}
    assert found["rejections_total"] == {**expected, ("a", "weights"): 2, ("a", "other"): 1}
    assert found["lost_replies_total"] == {("a",): 0, ("b",): 1}
    assert found["repeated_rounds_total"] == {(): 1}
    assert found["exclusions_total"] == {("a",): 1, ("b",): 0}


def test_what_the_run_does_now(tmp_path: Path) -> None:
    before = NOW - timedelta(seconds=30)
    live = Live(
        round=3,
        attempt=2,
        phase="hospitals",
        since=before,
        started=before,
        needed=2,
        hospitals={
            "a": HospitalLive(doing="training", since=before),
            "b": HospitalLive(doing="gone", since=before),
        },
    )
    joined = (NOW - timedelta(hours=1)).isoformat()
    events: list[Event] = [
        *(Joined(site=name, examples=1, time=joined) for name in "ab"),
        Left(site="b", time=before.isoformat()),
        Left(site="gone since the server was started", time=joined),
    ]
    found = samples_of(facts_of(tmp_path, [round_record(1)], live=live, events=events))
    assert found["remaining_seconds"] == {(): 49}
    assert (found["round"][()], found["attempt"][()]) == (3, 2)
    assert [phase for (phase,), on in found["phase"].items() if on] == ["hospitals"]
    assert found["phase_start_timestamp_seconds"] == {(): before.timestamp()}
    assert (found["hospitals_needed"][()], found["hospitals_connected"][()]) == (2, 1)
    assert {key for key, on in found["hospital_state"].items() if on} == {
        ("a", "training"),
        ("b", "gone"),
    }
    assert found["hospital_last_seen_timestamp_seconds"] == {
        ("a",): NOW.timestamp(),
        ("b",): before.timestamp(),
        ("gone since the server was started",): NOW.timestamp() - 3600,
    }
    assert found["lost_replies_total"].keys() == {("a",), ("b",)}
    over = facts_of(tmp_path, [round_record(1)])
    assert not samples_of(over).keys() & {"remaining_seconds", "phase", "hospital_state"}


def test_who_was_not_drawn_or_is_still_busy_has_missed_nothing(tmp_path: Path) -> None:
    rounds = [
        round_record(1, hospitals={"a": told(), "b": told()}),
        round_record(2, drawn={"a": 1.0, "c": 1.0}, missing=["c"]),
        round_record(3, busy=["b"], missing=["c"]),
    ]
    found = samples_of(facts_of(tmp_path, rounds))
    assert found["hospital_missed_rounds"] == {("a",): 0, ("b",): 0, ("c",): 2}
