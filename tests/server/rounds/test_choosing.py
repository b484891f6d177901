"""Which model is the best, and when a run ends before all its rounds are done."""

from pathlib import Path

import pytest

from common.checkpoint import read_checkpoint
from common.findings import FINDINGS
from common.options import StrategyName
from common.protocol import Instruction, Reply
from common.provenance import Provenance
from common.readings import Pooled, pooled
from common.scores import Scores
from server.rounds.ask import HospitalLost
from server.rounds.choosing import Choice
from server.rounds.loop import Rounds
from server.run.events import FinalModel, StoppedEarly, read_events
from server.run.folder import RunFolder
from server.run.histograms import read_histograms
from server.run.records import Result, read_rounds
from tests.support.histograms import histograms_with
from tests.support.hospitals import Fault, LocalHospitals, plan_of, rounds_of
from tests.support.shards import make_hospitals


def of_all(auc: float | None) -> Pooled | None:
    return None if auc is None else pooled(histograms_with(auc))


@pytest.mark.parametrize(
    ("scores", "best", "by"),
    [
        ([(0.5, 0.9), (0.9, 0.5)], (0.9, 1), "pooled"),
        ([(0.5, None), (0.9, None)], (0.9, 2), "mean"),
        ([(0.9, None), (0.5, 0.6)], (0.6, 2), "pooled"),  # means count no more
        ([(0.5, 0.6), (0.9, None)], (0.6, 1), "pooled"),
        ([(0.7, 0.7), (0.7, 0.7)], (0.7, 1), "pooled"),
        ([(None, None), (None, 0.2)], (0.2, 2), "pooled"),
        ([(None, None)], None, "mean"),
    ],
)
def test_the_pooled_auc_chooses_where_there_is_one(
    scores: list[tuple[float | None, float | None]], best: tuple[float, int] | None, by: str
) -> None:
    choice = Choice()
    choice.note(0, 1.0, of_all(1.0))  # the first model is not of this run's making
    for number, (mean, auc) in enumerate(scores, start=1):
        choice.note(number, mean, of_all(auc))
    assert choice.best == (best and pytest.approx(best))
    assert choice.by == by


def test_where_claims_are_not_believed_the_mean_chooses() -> None:
    choice = Choice(pooled=False)
    for number, (mean, auc) in enumerate([(0.5, 0.9), (0.9, 0.5)], start=1):
        choice.note(number, mean, of_all(auc))
    assert (choice.best, choice.by) == ((0.9, 2), "mean")


@pytest.mark.parametrize(
    ("aucs", "stops"),
    [
        ([0.5, 0.6, 0.7, 0.8], []),
        ([0.7, 0.7, 0.7, 0.7], [3, 4]),
        ([0.7, 0.6, 0.8, 0.7, 0.7], [5]),
        ([0.7, 0.705, 0.71], [3]),  # each a little, which adds up to a gain only later
        ([0.7, 0.705, 0.72], []),
        ([0.7, None, None], []),  # nothing was measured
        ([0.7, None, 0.6, None, 0.7], [5]),
        ([None, None, None], []),
    ],
)
def test_a_run_stops_after_rounds_in_a_row_without_a_gain(
    aucs: list[float | None], stops: list[int]
) -> None:
    choice, stopped = Choice(min_gain=0.015), []
    for number, auc in enumerate([0.9, *aucs]):
        choice.note(number, auc, None)
        assert choice.why_stop(0) is None
        if choice.why_stop(2) is not None:
            stopped.append(number)
    assert stopped == stops


MEANS = {2: 0.5, 3: 0.6, 4: 0.9, 5: 0.7}
POOLED = {2: 0.8, 3: 0.81, 4: 0.6, 5: 0.7}


FINAL = {6: 0.95}


def scored(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
    """Say, in each round, that the model before it has these AUCs."""
    number = instruction.identity.round
    auc = MEANS.get(number, 0.5)
    by_finding = dict.fromkeys(FINDINGS, auc)
    scores = Scores(images=10, loss=0.5, auc=auc, auc_by_finding=by_finding)
    of_all = POOLED | (FINAL if instruction.task == "evaluate" else {})
    text = histograms_with(of_all.get(number, 0.5), 5).to_text()
    return reply.model_copy(update={"validation": scores, "histograms": text}), blob


def scripted_run(
    tmp_path: Path, strategy: StrategyName = "fedavg", rounds: int = 4, early_stop: int = 0
) -> Result:
    """Run with hospitals that say what :func:`scored` does."""
    shards = make_hospitals(tmp_path / "data", 2, images=200)
    faults: dict[str, Fault] = {shard.name: scored for shard in shards}
    plan = plan_of(rounds=rounds, strategy=strategy, min_clients=2, early_stop=early_stop,
                   min_gain=0.05, batch_size=64)  # fmt: skip
    run = rounds_of(plan, shards, tmp_path / "run", faults)
    result = run.run()
    run.folder.log.close()
    return result


def best_round_of(run: Path) -> int | None:
    _, provenance = read_checkpoint(run / "best.pt", "densenet-tiny", 0)
    assert provenance is not None
    return provenance.round


@pytest.mark.parametrize(
    ("strategy", "best", "by"), [("fedavg", 1, "pooled"), ("median", 3, "mean")]
)
def test_the_best_model_is_that_of_the_pooled_auc_and_not_of_the_mean(
    tmp_path: Path,
    strategy: StrategyName,
    best: int,
    by: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    result = scripted_run(tmp_path, strategy)
    assert (result.best_round, result.best_by, best_round_of(tmp_path / "run")) == (best, by, best)
    assert f"best model: of round {best}, {by} validation AUC" in caplog.text
    assert (result.round, result.rounds, result.reason) == (4, 4, None)


def test_a_last_model_that_was_best_stays_so_in_a_run_that_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert scripted_run(tmp_path, rounds=5).best_round == best_round_of(run) == 5
    folder = RunFolder.reopen(run, {})
    plan = plan_of(rounds=6, min_clients=2, batch_size=64)
    shards = sorted((tmp_path / "data").iterdir())
    hospitals = LocalHospitals(shards, plan.seed, {shard.name: scored for shard in shards})
    state, _ = read_checkpoint(folder.checkpoint(5), "densenet-tiny", 0)
    result = Rounds(plan, hospitals, folder, state, Provenance(method="fedavg"), None).run()
    assert result.best_round == best_round_of(run) == 5


def test_a_last_model_that_few_have_scored_is_not_compared(tmp_path: Path) -> None:
    def away(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        if instruction.task == "evaluate":
            raise HospitalLost("the line is down")
        return scored(instruction, reply, blob)

    shards = make_hospitals(tmp_path / "data", 2, images=200)
    faults: dict[str, Fault] = {shards[0].name: scored, shards[1].name: away}
    plan = plan_of(rounds=5, min_clients=2, quorum=2, batch_size=64)
    run = rounds_of(plan, shards, tmp_path / "run", faults)
    assert run.run().best_round == 1  # 5 with both
    (final,) = [event for event in read_events(tmp_path / "run") if isinstance(event, FinalModel)]
    assert (final.auc, final.pooled) == (None, None)


def test_a_run_without_a_gain_ends_early_and_its_last_model_is_scored(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = scripted_run(tmp_path, rounds=50, early_stop=2)
    assert (result.round, result.rounds, result.best_round) == (4, 50, 1)
    assert result.reason is not None
    assert "pooled validation AUC has not gained 0.05 in 2 rounds (--early-stop 2)" in result.reason
    assert result.validation.auc == pytest.approx(0.7)
    assert read_histograms(run, 5).keys() == {"hospital-00", "hospital-01"}
    assert [record.round for record in read_rounds(run)] == [1, 2, 3, 4]
    events = [event for event in read_events(run) if isinstance(event, StoppedEarly)]
    assert [(event.round, event.reason) for event in events] == [(4, result.reason)]
    _, provenance = read_checkpoint(run / "final.pt", "densenet-tiny", 0)
    assert provenance is not None
    assert provenance.round == 4
