"""A round is saved and scored while the next one goes on, and never counts before it is safe."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from common.checkpoint import read_checkpoint
from common.findings import FINDINGS
from common.protocol import Instruction
from common.provenance import Provenance
from common.scores import Scores
from common.state import State
from common.wire import fingerprint, pack
from server.rounds.attempt import Attempt
from server.rounds.beside_next import BesideNext
from server.rounds.loop import Rounds
from server.run.events import InitialModel
from server.run.folder import RunFolder
from server.run.records import OPEN
from tests.support.hospitals import LocalHospitals, federate_by_hand, plan_of, rounds_with
from tests.support.shards import make_hospitals
from tests.support.states import same_bits

SECONDS = 20.0


def score(state: State) -> Scores:
    """Return scores that no other model has."""
    auc = int(fingerprint(pack(state))[:8], 16) / 2**32
    return Scores(images=10, loss=0.3, auc=auc, auc_by_finding=dict.fromkeys(FINDINGS, auc))


class Watched(LocalHospitals):
    """Says when a round's instruction arrives."""

    def __init__(self, folder: Path, number: int = 3) -> None:
        self.asked = {n: Event() for n in range(1, 9)}
        super().__init__(make_hospitals(folder, number), 5, {})

    def receives(self, instruction: Instruction, blob: bytes) -> bytes:
        self.asked[instruction.identity.round].set()
        return super().receives(instruction, blob)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_models_are_scored_while_the_next_round_goes_on_and_lines_are_whole(
    tmp_path: Path,
) -> None:
    hospitals, plan = Watched(tmp_path / "data"), plan_of(rounds=3)
    scored: list[str] = []

    def test(state: State) -> Scores:
        number = len(scored)
        assert hospitals.asked[number + 1].wait(SECONDS)  # the last one: to score the final model
        scored.append(fingerprint(pack(state)))
        return score(state)

    # The final model is not sent before the last line is whole.
    hospitals.asked[plan.rounds + 1].set()
    rounds = rounds_with(plan, hospitals, tmp_path / "run", test)
    rounds.run()
    lines = lines_of(tmp_path / "run")
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert scored[1:] == [line["model_sha256"] for line in lines]
    for line in lines:
        assert line["test"]["auc"] == int(line["model_sha256"][:8], 16) / 2**32
    assert [e.test.auc for e in rounds.folder.events() if isinstance(e, InitialModel)] == [
        int(scored[0][:8], 16) / 2**32
    ]
    assert not (tmp_path / "run" / OPEN).exists()


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold"])
def test_a_round_is_saved_beside_the_next_unless_hospitals_would_forget_the_one_before(
    tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = "scaffold" if strategy == "scaffold" else "sgd"
    plan = plan_of(rounds=2, strategy=strategy, local=local)
    hospitals, write, began = Watched(tmp_path / "data"), RunFolder.write_checkpoint, []

    def slow(folder: RunFolder, number: int, *arguments: Any) -> None:
        if number < plan.rounds:
            patience = 1.0 if plan.training.keeps_state else SECONDS
            began.append(hospitals.asked[number + 1].wait(patience))
        write(folder, number, *arguments)

    monkeypatch.setattr(RunFolder, "write_checkpoint", slow)
    rounds_with(plan, hospitals, tmp_path / "run").run()
    assert began == [not plan.training.keeps_state]


def test_nothing_of_a_round_counts_before_the_one_before_it_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save of a round is held back until the next one's replies are here, and then slow."""
    hospitals, folder, safe = Watched(tmp_path / "data"), tmp_path / "run", []
    rounds = rounds_with(plan_of(rounds=3), hospitals, folder)
    strike, collect, write = type(rounds)._strike, Attempt.collect, RunFolder.write_checkpoint
    came = {number: Event() for number in range(1, 5)}

    def comes(self: Attempt, *arguments: Any) -> Any:
        found = collect(self, *arguments)
        came[1 + sum(event.is_set() for event in came.values())].set()
        return found

    def held_back(self: RunFolder, number: int, *arguments: Any) -> None:
        if number < 3:
            assert came[number + 1].wait(SECONDS)
            time.sleep(0.2)
        write(self, number, *arguments)

    def noted(self: Any, found: Any) -> None:
        safe.append(len(lines_of(folder)) if (folder / "rounds.jsonl").exists() else 0)
        strike(self, found)

    monkeypatch.setattr(Attempt, "collect", comes)
    monkeypatch.setattr(RunFolder, "write_checkpoint", held_back)
    monkeypatch.setattr(type(rounds), "_strike", noted)
    rounds.run()
    assert safe == [0, 1, 2]


def test_a_round_that_was_saved_and_not_scored_is_scored_after_a_resume(tmp_path: Path) -> None:
    hospitals, plan, calls = Watched(tmp_path / "data"), plan_of(rounds=3), []

    def fails(state: State) -> Scores:
        calls.append(state)
        if len(calls) == 3:
            raise KeyError("the second round's model")
        return score(state)

    rounds = rounds_with(plan, hospitals, tmp_path / "run", fails)
    with pytest.raises(KeyError, match="second"):
        rounds.run()
    rounds.folder.log.close()
    assert [line["round"] for line in lines_of(tmp_path / "run")] == [1]
    assert json.loads((tmp_path / "run" / OPEN).read_bytes())["round"] == 2

    folder = RunFolder.reopen(tmp_path / "run", {})
    assert [record.round for record in folder.rounds()] == [1, 2]
    state, _ = read_checkpoint(folder.checkpoint(2), "densenet-tiny", 0)
    assert same_bits(state, calls[2])
    shards = [tmp_path / "data" / name for name in hospitals.connections]
    again = LocalHospitals(shards, plan.seed, {})  # the others still train, for nobody
    Rounds(plan, again, folder, state, Provenance(method="fedavg"), score).run()
    lines = lines_of(tmp_path / "run")
    assert [line["round"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert line["test"]["auc"] == int(line["model_sha256"][:8], 16) / 2**32
    final, _ = read_checkpoint(tmp_path / "run" / "final.pt", "densenet-tiny", 0)
    assert same_bits(final, federate_by_hand(plan, shards))
    assert not (tmp_path / "run" / OPEN).exists()


@pytest.mark.fault(
    "the disk is full when a round is saved, while hospitals train in the next one",
    "the run ends at once, and not after that next round",
)
def test_a_round_that_cannot_be_saved_ends_the_run_while_hospitals_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        assert hospitals.asked[2].wait(SECONDS)
        begun.append(time.monotonic())
        raise OSError("the disk is full")

    class Training(Watched):
        def receives(self, instruction: Instruction, blob: bytes) -> bytes:
            received = super().receives(instruction, blob)
            assert instruction.identity.round == 1 or ended.wait(SECONDS)
            return received

    begun: list[float] = []
    ended, hospitals = Event(), Training(tmp_path / "data")
    monkeypatch.setattr(RunFolder, "write_checkpoint", fails)
    rounds = rounds_with(plan_of(rounds=3), hospitals, tmp_path / "run")
    with pytest.raises(OSError, match="full"):
        rounds.run()
    ended.set()
    assert time.monotonic() - begun[0] < SECONDS / 2  # far from the deadline of the round


def test_what_the_work_raises_is_raised_once_by_whoever_waits_for_it() -> None:
    def fails(_safe: Callable[[], None]) -> None:
        raise OSError("the disk is full")

    with BesideNext() as beside:
        beside.start(fails)
        with pytest.raises(OSError, match="full"):
            beside.wait_until_safe()
        beside.wait()
