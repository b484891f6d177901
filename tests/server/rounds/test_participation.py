"""Rounds of a drawn cohort, and rounds that end before the last reply."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from common.checkpoint import read_checkpoint
from common.protocol import Instruction, Reply
from common.provenance import Provenance
from common.state import State
from server.rounds.ask import HospitalLost
from server.rounds.loop import Rounds
from server.rounds.participation import Participation
from server.rounds.plan import Plan, quorum_of
from server.run.events import Lost
from server.run.folder import RunFolder
from server.run.records import read_rounds
from server.strategies.base import RoundInfo, Updates
from server.strategies.fedavg import FedAvg
from tests.support.hospitals import (
    Fault,
    LocalHospitals,
    far,
    federate_as_recorded,
    plan_of,
    rounds_of,
    rounds_with,
)
from tests.support.shards import make_hospitals
from tests.support.states import same_bits
from tests.support.waiting import wait_until

FIVE = [f"hospital-{i:02d}" for i in range(5)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_hospitals(tmp_path_factory.mktemp("data"), 5)


def drawing(**changes: Any) -> Plan:
    chosen = Participation.model_validate({"fraction": 0.5, **changes})
    return plan_of(rounds=3, min_clients=5, quorum=None, participation=chosen)


def ending(end: int, **changes: object) -> Plan:
    chosen = Participation(rounds_end=end)
    return plan_of(**{"min_clients": 3, "quorum": 1.0 / 3, "participation": chosen, **changes})


def final(run: Path) -> Any:
    return read_checkpoint(run / "final.pt", "densenet-tiny", 0)[0]


def audit_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "audit.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("sample", ["uniform", "size"])
def test_a_drawn_cohort_is_asked_and_its_weighted_mean_follows(
    tmp_path: Path, shards: list[Path], sample: str
) -> None:
    asked: list[tuple[str, int, str]] = []

    def noting(name: str) -> Fault:
        def note(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
            asked.append((instruction.task, instruction.identity.round, name))
            return reply, blob

        return note

    plan = drawing(sample=sample)
    rounds = rounds_of(plan, shards, tmp_path / "run", {name: noting(name) for name in FIVE})
    rounds.run()
    lines = read_rounds(tmp_path / "run")
    for line in lines:
        assert line.drawn is not None
        assert list(line.drawn) == list(line.hospitals)
        assert (len(line.drawn), line.missing, line.rejected, line.busy) == (3, [], {}, [])
        trained = [name for task, number, name in asked if (task, number) == ("train", line.round)]
        assert sorted(trained) == list(line.drawn)
        equal = {chance == 1 for chance in line.drawn.values()}
        assert equal == {True} if sample == "uniform" else False in equal
        assert line.auc is not None
        assert sum(each.validation_images for each in line.hospitals.values()) > 0
    assert len({tuple(line.drawn or ()) for line in lines}) > 1
    assert sorted(name for task, _, name in asked if task == "evaluate") == FIVE
    assert same_bits(final(tmp_path / "run"), federate_as_recorded(plan, shards, lines))
    assert {each.doing for each in rounds.folder.live.current().hospitals.values()} == {"done"}


def test_a_resumed_run_draws_the_same_cohorts(tmp_path: Path, shards: list[Path]) -> None:
    plan = drawing()
    rounds_of(plan, shards, tmp_path / "whole").run()
    rounds = rounds_of(replace(plan, rounds=1), shards, tmp_path / "parts")
    rounds.run()
    rounds.folder.log.close()
    folder = RunFolder.reopen(tmp_path / "parts", {})
    state, _ = read_checkpoint(folder.checkpoint(1), "densenet-tiny", 0)
    hospitals = LocalHospitals(shards, plan.seed, {})
    Rounds(plan, hospitals, folder, state, Provenance(method="fedavg"), None).run()
    whole, parts = read_rounds(tmp_path / "whole"), read_rounds(tmp_path / "parts")
    assert [line.drawn for line in whole] == [line.drawn for line in parts]
    assert same_bits(final(tmp_path / "whole"), final(tmp_path / "parts"))


def test_who_has_gone_is_missing_and_who_was_not_drawn_is_not(
    tmp_path: Path, shards: list[Path]
) -> None:
    gone: list[str] = []

    def going(name: str) -> Fault:
        def leave(_instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
            if not gone:
                gone.append(name)
                del hospitals.connections[name]
            return reply, blob

        return leave

    hospitals = LocalHospitals(shards, 5, {name: going(name) for name in FIVE})
    rounds_with(drawing(), hospitals, tmp_path / "run").run()
    first, *later = read_rounds(tmp_path / "run")
    assert first.missing == []
    assert [line.missing for line in later] == [gone, gone]


def test_a_strategy_is_told_of_all_that_take_part(
    tmp_path: Path, shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []

    def noting(self: FedAvg, before: State, updates: Updates, about: RoundInfo) -> State:
        told.append((len(updates.infos), about.hospitals))
        return combine(self, before, updates, about)

    combine = FedAvg.combine
    monkeypatch.setattr(FedAvg, "combine", noting)
    plan = replace(drawing(), rounds=1, min_clients=2)
    rounds_of(plan, shards, tmp_path / "run").run()
    assert told == [(3, 5)]


@pytest.mark.parametrize(
    ("fraction", "clients", "quorum", "needed"),
    [
        (0.3, 10, None, 2),
        (0.5, 10, None, 4),
        (0.5, 10, 1.0, 5),
        (0.5, 10, 4.0, 4),
        (0.1, 5, None, 1),
    ],
)
def test_the_quorum_is_of_those_that_are_asked(
    fraction: float, clients: int, quorum: float | None, needed: int
) -> None:
    assert quorum_of(quorum, clients, fraction) == needed


class Held:
    """Keeps ``hospital-02`` busy with its first instruction, without a clock."""

    def __init__(
        self, shards: list[Path], run: Path, plan: Plan, fault: Fault | None = None
    ) -> None:
        self.free = Event()
        self.at: dict[int, Callable[[], object]] = {}
        faults: dict[str, Fault] = {"hospital-02": fault or self.held}
        faults |= dict.fromkeys(FIVE[:2], self._others)
        self.hospitals = LocalHospitals(shards[:3], plan.seed, faults)
        self.rounds = rounds_with(plan, self.hospitals, run)

    def does(self) -> str:
        return self.rounds.folder.live.current().hospitals["hospital-02"].doing

    def held(self, instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        if instruction.task == "train":
            assert self.free.wait(30)
        return reply, blob

    def _others(self, instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        self.at.get(instruction.identity.round, lambda: None)()
        return reply, blob


def test_a_slow_hospital_holds_no_round_up_and_its_update_counts_later(
    tmp_path: Path, shards: list[Path]
) -> None:
    def in_round_3() -> None:
        assert seen.is_set() or held.does() in ("training", "scoring", "sending", "done")
        held.free.set()
        wait_until(lambda: seen.is_set() or held.does() == "done")
        seen.set()

    seen = Event()
    plan = ending(2, rounds=3)
    held = Held(shards, tmp_path / "run", plan)
    held.at[3] = in_round_3
    held.rounds.run()
    lines = read_rounds(tmp_path / "run")
    assert [list(line.hospitals) for line in lines[:2]] == [FIVE[:2]] * 2
    assert [line.busy for line in lines[:2]] == [["hospital-02"]] * 2
    late = lines[2].hospitals["hospital-02"]
    assert (late.stale, late.auc, late.validation_images) == (2, None, 0)
    assert held.hospitals.connections["hospital-02"].hello.validation > 0
    assert [each.stale for each in lines[2].hospitals.values()] == [0, 2]
    assert len(lines[2].busy) == 1, "K = 2 replies were there"
    assert [line.missing for line in lines] == [[]] * 3
    (other,) = (each for each in lines[2].hospitals.values() if not each.stale)
    assert lines[2].auc == pytest.approx(other.auc), "scores of an older model are not in it"
    assert same_bits(final(tmp_path / "run"), federate_as_recorded(plan, shards[:3], lines))
    received = [
        (entry["site"], entry["identity"]["round"])
        for entry in audit_of(tmp_path / "run")
        if entry["event"] == "received"
    ]
    assert sorted(received).count(("hospital-02", 1)) == 1
    assert sorted(name for name, number in received if number == 4) == FIVE[:3]


def test_a_late_update_is_compared_at_the_rate_of_the_round_in_which_it_counts(
    tmp_path: Path, shards: list[Path]
) -> None:
    def in_round_2() -> None:
        held.free.set()
        wait_until(lambda: seen.is_set() or held.does() == "done")
        seen.set()

    seen = Event()
    falling = {"schedule": "steps", "lr_steps": [1], "lr_factor": 0.001}
    held = Held(shards, tmp_path / "run", ending(2, rounds=2, **falling))
    held.at[2] = in_round_2
    held.rounds.run()
    line = read_rounds(tmp_path / "run")[1]
    assert sorted(each.stale for each in line.hospitals.values()) == [0, 1]
    paces = [each.pace.parameters for each in line.hospitals.values() if each.pace]
    assert max(paces) < 10 * min(paces)


def test_a_reply_that_is_far_off_is_none_of_those_that_end_a_round(
    tmp_path: Path, shards: list[Path]
) -> None:
    def slow(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        if instruction.task == "train":
            live = rounds.folder.live
            wait_until(lambda: live.current().hospitals["hospital-00"].doing == "rejected")
        return reply, blob

    plan = ending(4, rounds=1, min_clients=5, quorum=4.0, attempts=1, norm_limit=10.0)
    hospitals = LocalHospitals(shards, plan.seed, {"hospital-00": far, "hospital-04": slow})
    rounds = rounds_with(plan, hospitals, tmp_path / "run")
    rounds.run()
    (line,) = read_rounds(tmp_path / "run")
    assert (list(line.hospitals), list(line.rejected)) == (FIVE[1:], FIVE[:1])


def test_whoever_still_trains_at_the_end_is_waited_for(tmp_path: Path, shards: list[Path]) -> None:
    def freed_at_the_end(
        instruction: Instruction, reply: Reply, blob: bytes
    ) -> tuple[Reply, bytes]:
        if instruction.task == "train":
            wait_until(lambda: held.rounds.folder.live.current().phase == "closing")
        return reply, blob

    held = Held(shards, tmp_path / "run", ending(2), freed_at_the_end)
    result = held.rounds.run()
    log = audit_of(tmp_path / "run")
    scoring = [i for i, entry in enumerate(log) if entry.get("task") == "evaluate"]
    assert [log[i]["site"] for i in scoring] == FIVE[:3]
    late = [entry["event"] for entry in log[: scoring[0]] if entry.get("site") == "hospital-02"]
    assert late[-2:] == ["sent", "received"]
    lines = read_rounds(tmp_path / "run")
    assert all(list(line.hospitals) == FIVE[:2] for line in lines)
    assert result.validation.auc is not None


@pytest.mark.fault(
    "with --rounds-end, a hospital vanishes that is busy with an earlier round's model",
    "it is missing in the round that goes on then, and asked again in the next one",
)
def test_a_busy_hospital_that_vanishes_is_missing_and_asked_again(
    tmp_path: Path, shards: list[Path]
) -> None:
    def vanishing(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        if instruction.identity.round == 1:
            held.held(instruction, reply, blob)
            raise HospitalLost("the line went dead")
        asked.append(instruction.identity.round)
        return reply, blob

    def in_round_2() -> None:
        held.free.set()
        wait_until(lambda: held.does() == "late")

    asked: list[int] = []
    held = Held(shards, tmp_path / "run", ending(2, rounds=3), vanishing)
    held.at[2] = in_round_2
    held.rounds.run()
    lines = read_rounds(tmp_path / "run")
    assert [line.missing for line in lines[:2]] == [[], ["hospital-02"]]
    (lost,) = [event for event in held.rounds.folder.events() if isinstance(event, Lost)]
    assert (lost.site, lost.round) == ("hospital-02", 2)
    assert asked == [3, 4]


def test_a_bad_late_reply_is_rejected_by_its_own_instruction(
    tmp_path: Path, shards: list[Path]
) -> None:
    def too_many(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        held.held(instruction, reply, blob)
        return reply.model_copy(update={"examples": 10**6}), blob

    def in_round_2() -> None:
        held.free.set()
        wait_until(lambda: held.does() == "rejected")

    held = Held(shards, tmp_path / "run", ending(2), too_many)
    held.at[2] = in_round_2
    held.rounds.run()
    lines = read_rounds(tmp_path / "run")
    assert [list(line.rejected) for line in lines] == [[], ["hospital-02"]]
    assert held.hospitals.connections["hospital-02"].told[0].startswith("claims 1000000 examples")
