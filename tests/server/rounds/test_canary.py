"""A canary before the first round: it names who would fail, and changes nothing that follows."""

import math
from pathlib import Path

import pytest

from common.checkpoint import read_checkpoint
from common.errors import NoQuorum
from common.protocol import Instruction, Reply
from server.rounds.canary import BATCHES
from server.run.events import CanaryRound
from tests.support.hospitals import (
    LocalHospitals,
    lost,
    plan_of,
    rounds_of,
    rounds_with,
)
from tests.support.shards import make_hospitals
from tests.support.states import same_bits


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return make_hospitals(tmp_path / "data", 3)


def fails_in_canary(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
    if instruction.batches is None:
        return reply, blob
    return reply.model_copy(update={"status": "failed", "reason": "MemoryError"}), b""


def canary_of(folder: Path) -> CanaryRound:
    """Return the one canary of a run that is over."""
    lines = (folder / "events.jsonl").read_text().splitlines()
    (line,) = [line for line in lines if '"canary"' in line]
    return CanaryRound.model_validate_json(line)


@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_the_rounds_after_a_canary_are_those_without_one(
    tmp_path: Path, shards: list[Path], mode: str
) -> None:
    options = {"mode": mode, "batch_size": 4, "local_epochs": 2}
    rounds_of(plan_of(**options), shards, tmp_path / "without").run()
    plan = plan_of(canary=True, **options)
    rounds = rounds_of(plan, shards, tmp_path / "run", {"hospital-01": fails_in_canary})
    rounds.run()
    models = [tmp_path / run / "final.pt" for run in ("without", "run")]
    assert same_bits(*(read_checkpoint(model, "densenet-tiny", 0)[0] for model in models))
    assert [len(record.hospitals) for record in rounds.folder.rounds()] == [3, 3]

    found = canary_of(tmp_path / "run")
    assert {name: each.ok for name, each in found.hospitals.items()} == {
        **{"hospital-00": True, "hospital-01": False, "hospital-02": True}
    }
    assert found.hospitals["hospital-01"].reason == "failed at the hospital (MemoryError)"
    fine = found.hospitals["hospital-02"]
    assert fine.examples == BATCHES * 4
    assert fine.loss is not None
    assert math.isfinite(fine.loss)
    assert fine.memory is not None
    assert fine.memory > 50e6
    assert fine.bytes is not None
    assert (fine.bytes.sent == fine.bytes.received) == (mode == "finetune")
    assert fine.batch_seconds is not None
    assert fine.round_seconds is not None
    # 2 epochs over at least 40 of its films
    assert fine.round_seconds > 20 * fine.batch_seconds
    assert found.round_seconds is not None
    assert found.run_seconds == pytest.approx(2 * found.round_seconds)


def test_below_the_quorum_a_canary_ends_the_run_and_names_who_failed_for_what(
    tmp_path: Path, shards: list[Path]
) -> None:
    faults = {"hospital-00": lost, "hospital-01": fails_in_canary}
    rounds = rounds_of(plan_of(canary=True), shards, tmp_path / "run", faults)
    with pytest.raises(NoQuorum) as caught:
        rounds.run()
    assert str(caught.value) == (
        "canary: 1 of 3 hospitals are fine, 2 are needed; hospital-00: the line went dead; "
        "hospital-01: failed at the hospital (MemoryError); mend this and go on with --resume"
    )
    assert canary_of(tmp_path / "run").needed == 2
    assert not (tmp_path / "run" / "rounds.jsonl").exists()
    assert not (tmp_path / "run" / "replies").exists()


def test_nothing_that_was_trained_on_a_few_films_leaves_in_a_canary(
    tmp_path: Path, shards: list[Path]
) -> None:
    def note(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        told.append((instruction, reply, blob))
        return reply, blob

    def receives(_instruction: Instruction, blob: bytes) -> bytes:
        sent.append(blob)
        return blob

    told: list[tuple[Instruction, Reply, bytes]] = []
    sent: list[bytes] = []
    hospitals = LocalHospitals(shards[:1], 5, {"hospital-00": note})
    hospitals.connections["hospital-00"]._receives = receives
    rounds_with(
        plan_of(canary=True, min_clients=1, rounds=1, batch_size=4), hospitals, tmp_path / "run"
    ).run()
    instruction, reply, blob = told[0]
    assert (instruction.identity.round, instruction.batches) == (0, BATCHES)
    assert blob == sent[0]
    assert (reply.validation, reply.histograms) == (None, None)
    assert told[1][2] != sent[1]
