"""What hospitals get back: the models of the run, and a mean that tells no hospital's number."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.checkpoint import read_checkpoint
from common.findings import FINDINGS
from common.options import Architecture
from common.protocol import Instruction, Keep, Reply
from common.runtime.status import read_status
from common.scores import AucByFinding, Scores
from common.state import State
from common.wire import fingerprint, pack
from server.rounds.sharing import best_model, result_for, shared_mean
from server.run.folder import RunFolder
from server.run.records import Result, RunStatus, SharedMean
from tests.support.hospitals import Fault, plan_of, rounds_of
from tests.support.records import HOSPITAL, round_record
from tests.support.shards import make_hospitals

AUC = st.none() | st.floats(0, 1)


def scores_of(by_finding: AucByFinding, images: int) -> Scores:
    return Scores(images=images, loss=0.5, auc=None, auc_by_finding=by_finding)


@given(
    st.lists(st.tuples(st.lists(AUC, min_size=14, max_size=14), st.integers(1, 10**6)), max_size=6)
)
def test_a_mean_of_fewer_than_three_is_not_told_and_all_count_the_same(
    hospitals: list[tuple[list[float | None], int]],
) -> None:
    found = shared_mean(
        {
            f"h{i}": scores_of(dict(zip(FINDINGS, aucs, strict=True)), images)
            for i, (aucs, images) in enumerate(hospitals)
        }
    )
    assert found.hospitals == len(hospitals)
    for finding, *column in zip(FINDINGS, *(aucs for aucs, _ in hospitals), strict=True):
        told = [auc for auc in column if auc is not None]
        mean = found.auc_by_finding[finding]
        if len(told) < 3:
            assert mean is None
        else:
            assert mean == pytest.approx(sum(told) / len(told))


def test_a_hospital_is_told_of_its_own_rounds_alone() -> None:
    parts = {"a": HOSPITAL, "b": HOSPITAL}
    rounds = [
        round_record(1, hospitals=parts),
        round_record(2, hospitals=parts, missing=["c"]),
        round_record(3, hospitals={"b": HOSPITAL}, rejected={"a": "why"}, missing=["c"]),
    ]
    shared = SharedMean(hospitals=3, auc_by_finding=dict.fromkeys(FINDINGS, 0.7))
    ended = RunStatus(state="finished", rounds=3, best_round=2, shared=shared)
    found = {name: result_for(name, rounds, ended) for name in ("a", "b", "c", "d")}
    counts = [(r.took_part, r.rejected, r.missing) for r in found.values() if r is not None]
    assert counts == [(2, 1, 0), (3, 0, 0), (0, 0, 2), (0, 0, 0)]
    for result in found.values():
        assert result is not None
        assert (result.rounds, result.best_round, result.hospitals) == (3, 2, 3)
        assert result.auc_by_finding == shared.auc_by_finding
    assert result_for("a", rounds, RunStatus(state="finished", rounds=3)) is None


def closing(tmp_path: Path, share: bool) -> tuple[Result, list[Keep | None], Path]:
    """Run three rounds whose second model is the best; return what closing instructions said."""
    asked: list[Keep | None] = []

    def scored(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        number = instruction.identity.round
        auc = {1: 0.5, 2: 0.6, 3: 0.9, 4: 0.7}[number]
        if (number, instruction.identity.attempt) == (4, 2):
            auc = 0.1  # what they say of the best model now counts nowhere
        if instruction.task == "evaluate":
            asked.append(instruction.keep)
        scores = scores_of(dict.fromkeys(FINDINGS, auc), 2).model_copy(update={"auc": auc})
        return reply.model_copy(update={"validation": scores, "histograms": None}), blob

    shards = make_hospitals(tmp_path / "data", 3, images=80)
    faults: dict[str, Fault] = {shard.name: scored for shard in shards}
    folder = tmp_path / "run"
    plan = plan_of(rounds=3, share_model=share, dp="site", dp_clip=1e-3)
    rounds = rounds_of(plan, shards, folder, faults)
    return rounds.run(), asked, folder


@pytest.mark.parametrize("share", [True, False])
def test_the_best_model_is_shared_after_the_final_one_and_changes_nothing(
    tmp_path: Path, share: bool
) -> None:
    result, asked, folder = closing(tmp_path, share)
    assert result.best_round == 2
    assert result.validation.auc == pytest.approx(0.7)
    if not share:
        assert asked == [None] * 3
        assert result.shared is None
        return
    assert result.shared is not None
    assert result.shared.hospitals == 3
    assert result.shared.auc_by_finding == pytest.approx(dict.fromkeys(FINDINGS, 0.7))
    assert [keep and (keep.model, keep.round, keep.strategy) for keep in asked] == [
        *[("final", 3, "fedavg")] * 3,
        *[("best", 2, "fedavg")] * 3,
    ]
    for keep in (asked[0], asked[-1]):
        assert keep is not None
        state, told = read_checkpoint(folder / f"{keep.model}.pt", "densenet-tiny", 0)
        assert keep.sha256 == fingerprint(pack(state))
        assert keep.privacy is not None
        assert keep.privacy == told.privacy


def test_what_is_shared_stands_in_the_status_of_a_run_that_is_done(tmp_path: Path) -> None:
    result, _, folder = closing(tmp_path, True)
    (folder / "status.json").write_text(
        RunStatus(state="finished", **dict(result)).model_dump_json()
    )
    assert read_status(folder, RunStatus).shared == result.shared


@pytest.mark.parametrize("damage", ["missing", "another", "garbage"])
def test_a_best_model_that_is_not_the_rounds_is_not_shared_and_ends_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    def spoilt(folder: RunFolder, number: int, architecture: Architecture) -> State | None:
        file = folder.path / "best.pt"
        if damage == "another":
            file.write_bytes(folder.checkpoint(1).read_bytes())
        elif damage == "garbage":
            file.write_bytes(b"garbage")
        else:
            file.unlink()
        return best_model(folder, number, architecture)

    monkeypatch.setattr("server.rounds.closing.best_model", spoilt)
    result, asked, _ = closing(tmp_path, True)
    assert result.best_round == 2
    assert [keep and keep.model for keep in asked] == ["final"] * 3
    assert "the best model is not shared: " in caplog.text
