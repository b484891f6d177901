import json
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.checkpoint import read_checkpoint
from common.errors import BadInput, NoQuorum
from common.findings import FINDINGS
from common.model import build_model, state_of
from common.protocol import Instruction, Reply
from common.provenance import Provenance
from common.runtime.status import read_status
from common.scores import Scores
from common.state import State, select, spec_of
from common.wire import fingerprint, pack, unpack
from server.rounds.loop import Rounds
from server.rounds.progress import Progress, across
from server.run.events import Event, Joined, Repeated
from server.run.folder import RunFolder
from server.run.records import RunStatus
from server.strategies.fedavg import FedAvg
from tests.support.hospitals import (
    Fault,
    LocalConnection,
    LocalHospitals,
    far,
    federate_by_hand,
    lost,
    plan_of,
    rounds_of,
    rounds_with,
)
from tests.support.records import round_record
from tests.support.shards import make_hospitals, make_shard
from tests.support.states import same_bits


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return make_hospitals(tmp_path / "data", 3)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def poisoned(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
    if instruction.task == "evaluate":
        return reply, blob
    state = unpack(blob, spec_of(state_of(build_model("densenet-tiny"))))
    state["features.norm0.weight"] = np.full_like(state["features.norm0.weight"], np.nan)
    blob = pack(state)
    return reply.model_copy(update={"weights": fingerprint(blob)}), blob


def test_the_last_model_is_the_exact_mean(tmp_path: Path, shards: list[Path]) -> None:
    plan = plan_of()
    result = rounds_of(plan, shards, tmp_path / "run").run()
    state, provenance = read_checkpoint(tmp_path / "run" / "final.pt", "densenet-tiny", 0)
    assert same_bits(state, federate_by_hand(plan, shards))
    assert provenance is not None
    assert (provenance.method, provenance.round) == ("fedavg", 2)
    assert result.rounds == 2


def test_a_hospital_weighs_as_many_films_as_have_a_known_label(tmp_path: Path) -> None:
    idle = [range(0), range(0, 46, 2), range(10)]
    shards = [
        make_shard(
            tmp_path / f"hospital-{i:02d}", 40 + 6 * i, seed=i, unknown=0.2 * i, unlabelled=rows
        )
        for i, rows in enumerate(idle)
    ]
    plan = plan_of()
    rounds_of(plan, [shard.path for shard in shards], tmp_path / "run").run()
    state, _ = read_checkpoint(tmp_path / "run" / "final.pt", "densenet-tiny", 0)
    assert same_bits(state, federate_by_hand(plan, [shard.path for shard in shards]))
    for line in lines_of(tmp_path / "run"):
        for shard, rows in zip(shards, idle, strict=True):
            whole = make_shard(tmp_path / f"{line['round']}" / shard.path.name, len(shard))
            training = [i for i in whole.split(plan.seed)[0].tolist() if i not in rows]
            assert line["hospitals"][shard.path.name]["examples"] == len(training)


def test_a_line_names_every_hospital_and_what_it_did(tmp_path: Path, shards: list[Path]) -> None:
    rounds_of(plan_of(), shards, tmp_path / "run").run()
    for number, line in enumerate(lines_of(tmp_path / "run"), start=1):
        assert line["round"] == number
        assert list(line["hospitals"]) == ["hospital-00", "hospital-01", "hospital-02"]
        assert line["test"] is None
        assert len(line["model_sha256"]) == 64
        for entry in line["hospitals"].values():
            assert entry["examples"] > 0
            assert entry["update_norm"] > 0
            assert entry["seconds"].keys() >= {"receive", "train", "evaluate", "send"}
            assert entry["bytes"]["sent"] == entry["bytes"]["received"]
            assert len(entry["auc_by_finding"]) == 14


@pytest.mark.fault(
    "a reply holds NaN",
    "it is rejected with the reason; the average is that of the others",
)
def test_a_hospital_that_sends_nan_loses_its_round_and_no_one_else_does(
    tmp_path: Path, shards: list[Path]
) -> None:
    plan = plan_of()
    rounds_of(plan, shards, tmp_path / "run", {"hospital-01": poisoned}).run()
    lines = lines_of(tmp_path / "run")
    assert [list(line["hospitals"]) for line in lines] == [["hospital-00", "hospital-02"]] * 2
    assert "norm0.weight is not finite" in lines[0]["rejected"]["hospital-01"]
    state, _ = read_checkpoint(tmp_path / "run" / "final.pt", "densenet-tiny", 0)
    assert same_bits(state, federate_by_hand(plan, [shards[0], shards[2]]))


def test_a_hospital_that_does_not_answer_is_missing(tmp_path: Path, shards: list[Path]) -> None:
    rounds_of(plan_of(rounds=1), shards, tmp_path / "run", {"hospital-00": lost}).run()
    (line,) = lines_of(tmp_path / "run")
    assert line["missing"] == ["hospital-00"]
    assert list(line["hospitals"]) == ["hospital-01", "hospital-02"]


@pytest.mark.fault(
    "too few good replies for a quorum",
    "the round is repeated, and after some attempts the run ends with exit code 3; all is saved",
)
def test_below_the_quorum_a_round_is_repeated_and_then_the_run_ends(
    tmp_path: Path, shards: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    attempts = []

    def failing(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        attempts.append((instruction.identity.round, instruction.identity.attempt))
        return poisoned(instruction, reply, blob)

    rounds = rounds_of(plan_of(quorum=1.0), shards, tmp_path / "run", {"hospital-02": failing})
    with pytest.raises(NoQuorum, match="fewer than 3 good replies in 3 attempts"):
        rounds.run()
    assert attempts == [(1, 1), (1, 2), (1, 3)]
    assert [line.endswith("is repeated") for line in caplog.messages if "only 2" in line] == [
        *(True, True, False)
    ]
    assert not (tmp_path / "run" / "rounds.jsonl").exists()
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_run_that_excluded_those_it_needs_says_so_and_goes_on_once_they_are_let_in(
    tmp_path: Path, shards: list[Path]
) -> None:
    folder = tmp_path / "run"
    faults: dict[str, Fault] = {"hospital-01": poisoned, "hospital-02": poisoned}
    rounds = rounds_of(plan_of(rounds=1), shards, folder, faults)
    files = f"once mended, remove their files from {folder / 'excluded'}"
    remedy = f"excluded: hospital-01, hospital-02; {files} and start their clients again"
    with pytest.raises(NoQuorum, match=f"{remedy}; --resume goes on"):
        rounds.run()
    rounds.folder.log.close()

    def resume(there: list[Path], patience: float) -> None:
        plan = plan_of(rounds=1, round_timeout=patience)
        again, hospitals = RunFolder.reopen(folder, {}), LocalHospitals(there, plan.seed, {})
        state = state_of(build_model(plan.architecture, plan.seed))
        with closing(again.log):
            Rounds(plan, hospitals, again, state, Provenance(method="fedavg"), None).run()

    with pytest.raises(NoQuorum, match=f"{remedy}; start more clients"):
        resume(shards[:1], 0.1)
    for file in (folder / "excluded").iterdir():
        file.unlink()
    resume(shards, 20.0)
    assert len(lines_of(folder)) == 1


def test_a_round_that_succeeds_at_the_second_attempt_counts_once(
    tmp_path: Path, shards: list[Path]
) -> None:
    def first_only(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        first = instruction.identity.attempt == 1
        return poisoned(instruction, reply, blob) if first else (reply, blob)

    plan = plan_of(quorum=1.0)
    rounds_of(plan, shards, tmp_path / "run", {"hospital-02": first_only}).run()
    assert [line["attempt"] for line in lines_of(tmp_path / "run")] == [2, 2]
    state, _ = read_checkpoint(tmp_path / "run" / "final.pt", "densenet-tiny", 0)
    assert same_bits(state, federate_by_hand(plan, shards))


@pytest.mark.fault(
    "a reply to another round or attempt",
    "it is rejected",
)
def test_a_reply_to_another_attempt_is_never_averaged(tmp_path: Path, shards: list[Path]) -> None:
    def stale(_instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        old = reply.identity.model_copy(update={"attempt": 7})
        return reply.model_copy(update={"identity": old}), blob

    rounds_of(plan_of(rounds=1), shards, tmp_path / "run", {"hospital-01": stale}).run()
    (line,) = lines_of(tmp_path / "run")
    assert "another attempt" in line["rejected"]["hospital-01"]


def test_in_linear_mode_the_real_models_head_travels_alone_and_its_backbone_stays(
    tmp_path: Path,
) -> None:
    shards = make_hospitals(tmp_path / "data", 2, images=24)
    plan = plan_of(architecture="densenet121", mode="linear", rounds=2, min_clients=2)
    rounds_of(plan, shards, tmp_path / "run").run()
    first, second = lines_of(tmp_path / "run")
    for entry in first["hospitals"].values():
        assert entry["bytes"]["received"] > 28e6
        assert entry["bytes"]["sent"] < 100_000
    for entry in second["hospitals"].values():
        assert entry["bytes"]["received"] < 100_000
        assert entry["bytes"]["sent"] < 100_000
    before = state_of(build_model("densenet121", plan.seed))
    after, _ = read_checkpoint(tmp_path / "run" / "final.pt", "densenet121", 0)
    assert same_bits(select(after, "backbone"), select(before, "backbone"))
    assert not same_bits(select(after, "head"), select(before, "head"))


def test_what_goes_wrong_alike_everywhere_excludes_nobody(
    tmp_path: Path, shards: list[Path]
) -> None:
    folder = tmp_path / "run"
    faults: dict[str, Fault] = {shard.name: poisoned for shard in shards}
    rounds = rounds_of(plan_of(attempts=4), shards, folder, faults)
    with pytest.raises(NoQuorum, match="in 4 attempts"):
        rounds.run()
    assert not (folder / "excluded").exists()
    repeated = [event for event in rounds.folder.events() if isinstance(event, Repeated)]
    assert [event.rejected for event in repeated] == [[]] * 4


@pytest.mark.parametrize("quorum", [1, 3])
def test_training_that_diverges_at_most_hospitals_ends_the_run_at_once(
    tmp_path: Path, shards: list[Path], quorum: int
) -> None:
    """Though the others are enough for the round: it is nobody's fault, and no model's."""
    attempts = []

    def diverges(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        del blob
        attempts.append(instruction.identity.attempt)
        return reply.model_copy(update={"status": "diverged", "reason": "whatever"}), b""

    faults: dict[str, Fault] = {shard.name: diverges for shard in shards[:2]}
    with pytest.raises(NoQuorum) as caught:
        rounds_of(plan_of(lr=0.05, quorum=quorum), shards, tmp_path / "run", faults).run()
    assert not (tmp_path / "run" / "excluded").exists()
    assert str(caught.value) == (
        "round 1: the training diverged at learning rate 0.05 at 2 of 3 hospitals; go on from the "
        "model before it with a lower rate: --resume --change lr=0.005"
    )
    assert attempts == [1, 1]


def test_a_strategy_that_breaks_the_model_ends_the_run_before_it_is_sent(
    tmp_path: Path, shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: FedAvg, before: State, *_others: object) -> State:
        return {**before, "features.norm0.running_var": -before["features.norm0.running_var"]}

    rounds = rounds_of(plan_of(), shards, tmp_path / "run")
    monkeypatch.setattr(FedAvg, "combine", broken)
    with pytest.raises(BadInput, match=r"--strategy fedavg made a model .* is negative"):
        rounds.run()
    assert not (tmp_path / "run" / "rounds.jsonl").exists()
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("hospitals", "quorum", "needed"),
    [
        *((1, None, 1), (2, None, 2), (3, None, 2), (4, None, 3), (5, None, 4), (10, None, 8)),
        *((3, 1.0, 3), (3, 0.8, 3), (10, 7.0, 7), (10, 0.01, 1)),
    ],
)
def test_the_usual_quorum_bears_the_loss_of_one_from_three_hospitals_on(
    hospitals: int, quorum: float | None, needed: int
) -> None:
    assert plan_of(min_clients=hospitals, quorum=quorum).needed == needed


def test_a_run_that_waits_for_hospitals_says_so(tmp_path: Path, shards: list[Path]) -> None:
    class Late(LocalHospitals):
        """Come once they have been waited for three times."""

        def wait_for(self, count: int, timeout: float) -> bool:
            seen.append(read_status(tmp_path / "run", RunStatus))
            if len(seen) == 3:
                self.connections.update(late)
            return super().wait_for(count, timeout)

    seen: list[RunStatus] = []
    hospitals = Late(shards, 5, {})
    late = {"hospital-02": hospitals.connections.pop("hospital-02")}
    rounds_with(plan_of(), hospitals, tmp_path / "run").run()
    assert {(s.state, s.round, s.hospitals, s.needed) for s in seen[:3]} == {
        ("waiting", None, 2, 3)
    }
    assert read_status(tmp_path / "run", RunStatus).state == "running"


@pytest.mark.fault(
    "three bad replies in a row",
    "the hospital is excluded until a person lets it in again",
)
def test_three_bad_replies_in_a_row_exclude_a_hospital_until_it_is_let_in_again(
    tmp_path: Path, shards: list[Path]
) -> None:
    bad_rounds = {1, 2, 4, 5, 6}

    def often(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        bad = instruction.identity.round in bad_rounds
        return poisoned(instruction, reply, blob) if bad else (reply, blob)

    folder = tmp_path / "run"
    hospitals = LocalHospitals(shards, 5, {"hospital-01": often})
    connection = hospitals.connections["hospital-01"]
    rounds = rounds_with(plan_of(rounds=8), hospitals, folder)
    rounds.run()
    lines = lines_of(folder)
    assert [list(line["rejected"]) for line in lines[:6]] == [
        *([["hospital-01"]] * 2),
        [],
        *([["hospital-01"]] * 3),
    ]
    assert all(line["missing"] == ["hospital-01"] for line in lines[6:])
    assert hospitals.dismissed.keys() == {"hospital-01"}
    assert len(connection.told) == 5
    assert "norm0.weight is not finite" in connection.told[0]
    assert [file.name for file in (folder / "excluded").iterdir()] == ["hospital-01.json"]
    assert "removing hospital-01.json" in (rounds.folder.exclusions.refusal("hospital-01") or "")
    (folder / "excluded" / "hospital-01.json").unlink()
    assert rounds.folder.exclusions.refusal("hospital-01") is None
    assert not rounds.folder.exclusions.remedy()


def test_bad_replies_to_a_round_that_was_repeated_count_after_a_resume_too(
    tmp_path: Path, shards: list[Path]
) -> None:
    plan = plan_of(rounds=1, attempts=2)
    faults: dict[str, Fault] = {"hospital-01": poisoned, "hospital-02": poisoned}
    rounds = rounds_of(plan, shards, tmp_path / "run", faults)
    with pytest.raises(NoQuorum, match="in 2 attempts"):
        rounds.run()
    assert not (tmp_path / "run" / "excluded").exists()
    rounds.folder.log.close()

    folder = RunFolder.reopen(tmp_path / "run", {})
    hospitals = LocalHospitals(shards, plan.seed, {"hospital-02": poisoned})
    state = state_of(build_model(plan.architecture, plan.seed))
    Rounds(plan, hospitals, folder, state, Provenance(method="fedavg"), None).run()
    assert hospitals.dismissed.keys() == {"hospital-02"}
    assert list(lines_of(tmp_path / "run")[0]["rejected"]) == ["hospital-02"]


def test_who_is_gone_for_a_moment_before_the_closing_evaluation_is_waited_for(
    tmp_path: Path, shards: list[Path]
) -> None:
    class Leaving(LocalHospitals):
        """``hospital-00`` is gone once it was asked, until it is waited for."""

        def wait_for_return(self, names: Collection[str], timeout: float) -> None:
            del timeout
            if "hospital-00" in names and away:
                self.connections["hospital-00"] = away.pop()

    def note(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        asked.append(instruction.task)
        away.append(hospitals.connections.pop("hospital-00"))
        return reply, blob

    away: list[LocalConnection] = []
    asked: list[str] = []
    plan = plan_of(min_clients=2, quorum=2.0)
    hospitals = Leaving(shards, plan.seed, {"hospital-00": note})
    rounds_with(plan, hospitals, tmp_path / "run").run()
    assert asked == ["train", "train", "evaluate"]


def test_under_robust_strategies_no_hospital_counts_more_than_another_by_what_it_claims() -> None:
    def scores(auc: float, images: int) -> Scores:
        return Scores(images=images, loss=0.5, auc=auc, auc_by_finding=dict.fromkeys(FINDINGS, auc))

    validations = {"a": scores(0.6, 10), "b": scores(0.8, 10), "liar": scores(0.1, 10**6)}
    assert across(validations, equal=True).auc == pytest.approx(0.5)
    assert across(validations, equal=False).auc == pytest.approx(0.1, abs=1e-4)


def test_a_good_reply_to_a_repeated_round_ends_the_row() -> None:
    bad = {"a": "why", "b": "why"}
    records = [round_record(number, hospitals={}, rejected=bad) for number in (1, 2)]
    events: list[Event] = [
        Joined(site="a", examples=1),
        Repeated(round=2, attempt=1, hospitals=["b"], rejected=["c"]),
        Repeated(round=3, attempt=1, hospitals=[], rejected=["c"]),
    ]
    progress = Progress.of(records, events)
    assert progress.round == 2
    assert sorted(progress.struck_out([], ["a", "b", "c"])) == ["a", "c"]


@pytest.mark.fault(
    "an update far longer than the others'",
    "it is taken out of the average again, and no bit of it remains",
)
def test_an_update_far_from_the_others_is_left_out_after_it_was_added(
    tmp_path: Path, shards: list[Path]
) -> None:
    plan = plan_of(norm_limit=10.0, quorum=0.6)
    rounds_of(plan, shards, tmp_path / "run", {"hospital-01": far}).run()
    for line in lines_of(tmp_path / "run"):
        assert "more than 10 times the usual" in line["rejected"]["hospital-01"]
    state, _ = read_checkpoint(tmp_path / "run" / "final.pt", "densenet-tiny", 0)
    assert same_bits(state, federate_by_hand(plan, [shards[0], shards[2]]))


def test_a_hospital_that_is_revoked_in_mid_round_is_left_out(
    tmp_path: Path, shards: list[Path]
) -> None:
    def revoking(_instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        hospitals.dismissed["hospital-01"] = "hospital-01 was revoked"
        return reply, blob

    plan = plan_of(rounds=1)
    hospitals = LocalHospitals(shards, plan.seed, {"hospital-01": revoking})
    rounds_with(plan, hospitals, tmp_path / "run").run()
    (line,) = lines_of(tmp_path / "run")
    assert line["rejected"] == {"hospital-01": "hospital-01 was revoked"}
    state, _ = read_checkpoint(tmp_path / "run" / "final.pt", "densenet-tiny", 0)
    assert same_bits(state, federate_by_hand(plan, [shards[0], shards[2]]))


@pytest.mark.parametrize(("quorum", "needed"), [(0.8, 8), (0.05, 1), (1, 10), (3, 3), (0.81, 9)])
def test_a_quorum_is_a_share_or_a_number(quorum: float, needed: int) -> None:
    assert plan_of(min_clients=10, quorum=quorum).needed == needed
