"""Whole runs whose models travel as changes; killed ones are in tests/server/strategies."""

from itertools import pairwise
from pathlib import Path

import pytest

from common.checkpoint import read_checkpoint, read_strategy
from common.codec.change import received, sent
from common.model import build_model, state_of
from common.options import Wire
from common.protocol import Instruction, Reply
from common.seeds import generator
from common.state import State, is_parameter, spec_of
from common.wire import fingerprint, pack, unpack
from server.rounds.beside import take_apart
from server.rounds.participation import Participation
from tests.support.hospitals import (
    GREETING,
    Fault,
    LocalHospitals,
    hospital_of,
    instruction_of,
    plan_of,
    rounds_with,
)
from tests.support.shards import make_hospitals
from tests.support.states import same_bits, slow_mean

FIRST = state_of(build_model("densenet-tiny", 5))


class Line(LocalHospitals):
    """Notes what goes out, by round and in the order of the hospitals."""

    def __init__(self, shards: list[Path], faults: dict[str, Fault]) -> None:
        self.out: dict[int, list[tuple[Instruction, bytes]]] = {}
        super().__init__(shards, 5, faults)

    def receives(self, instruction: Instruction, blob: bytes) -> bytes:
        self.out.setdefault(instruction.identity.round, []).append((instruction, blob))
        return blob

    def whole(self, number: int) -> int:
        """Return how many times a model went out in a round, and not its change."""
        return sum(instruction.base is None for instruction, _ in self.out[number])


@pytest.mark.parametrize("wire", ["bf16", "int8", "topk"])
def test_a_run_is_that_of_the_formulas(tmp_path: Path, wire: Wire) -> None:
    shards = make_hospitals(tmp_path / "data", 3, 20)
    plan = plan_of(rounds=4, wire=wire, canary=True)
    line = Line(shards, {})
    rounds = rounds_with(plan, line, tmp_path / "run")
    rounds.run()
    folder = rounds.folder
    records = folder.rounds()

    x, s = FIRST, FIRST
    e: State = {}
    spec = spec_of(FIRST)
    hospitals = [hospital_of(path) for path in shards]
    for number in range(1, 5):
        down = len(pack(x))
        if number > 1:
            blob, s, e = sent(s, x, e, wire, generator(5, "wire", number))
            down = len(blob)
            assert down < len(pack(x)) / 1.8
        replies = []
        for hospital in hospitals:
            told = instruction_of(plan, number, counted=number - 1)
            reply, blob = hospital.answer(told, pack(s))
            replies.append((received(blob, s, spec, wire), reply.examples))
            size = records[number - 1].hospitals[hospital.name].bytes
            assert (size.received, size.sent) == (down, len(blob))
        x = slow_mean(replies)
        assert records[number - 1].model_sha256 == fingerprint(pack(x))
    assert [line.whole(number) for number in range(6)] == [3, 3, 0, 0, 0, 3]
    assert all(blob == pack(x) for _, blob in line.out[5])  # which is scored
    assert same_bits(read_checkpoint(folder.path / "final.pt", "densenet-tiny", 0)[0], x)
    kept = take_apart(read_strategy(folder.checkpoint(4)))
    assert same_bits(kept.sent, s)
    assert same_bits(kept.residual, e)
    assert all(h.greet(GREETING).holds == fingerprint(pack(s)) for h in hospitals)


def test_what_does_not_follow_the_optimiser_arrives_exactly(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 1, 20)
    replies = {}
    for wire in ("fp32", "topk"):
        told = instruction_of(plan_of(wire=wire), 1)
        _, blob = hospital_of(shards[0]).answer(told, pack(FIRST))
        replies[wire] = received(blob, FIRST, spec_of(FIRST), told.wire)
    same: State = {name: a for name, a in replies["fp32"].items() if not is_parameter(name)}
    assert same_bits(same, {name: replies["topk"][name] for name in same})
    assert not same_bits(same, {name: FIRST[name] for name in same})


@pytest.mark.parametrize("counted", [0, 1])
def test_what_has_not_travelled_of_a_round_that_counted_travels_later(
    tmp_path: Path, counted: int
) -> None:
    (shard,) = make_hospitals(tmp_path / "data", 1, 20)
    exact, encoded = hospital_of(shard), hospital_of(shard)
    residual: State = {}
    for number in (1, 2):
        _, trained = exact.answer(instruction_of(plan_of(), number), pack(FIRST))
        told = instruction_of(plan_of(wire="topk"), number, counted=counted * (number - 1))
        _, blob = encoded.answer(told, pack(FIRST))
        rng = generator(5, "wire", number, shard.name)
        up = sent(FIRST, unpack(trained, spec_of(FIRST)), residual, "topk", rng)
        assert blob == up.blob
        residual = up.residual if counted else {}


def spoilt(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
    if instruction.task == "train" and instruction.identity.round == 2:
        blob = blob[:-1]
        return reply.model_copy(update={"weights": fingerprint(blob)}), blob
    return reply, blob


@pytest.mark.fault(
    "weights that travel encoded are cut, of another size than the model, or mark changes that "
    "there are not",
    "they are rejected before they take more memory than the model, and the hospital is sent the "
    "whole model next",
)
def test_whoever_is_rejected_gets_the_whole_model_next(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 3, 20)
    line = Line(shards, {"hospital-01": spoilt})
    rounds = rounds_with(plan_of(rounds=4, wire="int8"), line, tmp_path / "run")
    rounds.run()
    records = rounds.folder.rounds()
    assert records[1].rejected == {"hospital-01": "not a whole zstd frame"}
    assert [len(record.hospitals) for record in records] == [3, 2, 3, 3]
    assert [line.whole(number) for number in (1, 2, 3, 4)] == [3, 0, 1, 0]


def test_whoever_was_not_asked_gets_the_whole_model_next(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 4, 20)
    line = Line(shards, {})
    half = Participation(fraction=0.5)
    plan = plan_of(rounds=6, min_clients=4, quorum=None, participation=half, wire="int8")
    rounds = rounds_with(plan, line, tmp_path / "run")
    rounds.run()
    asked = [set(record.hospitals) for record in rounds.folder.rounds()]
    assert [len(names) for names in asked] == [2] * 6
    back = [len(now - before) for before, now in pairwise(asked)]
    assert [line.whole(number) for number in range(2, 7)] == back
    assert 0 < sum(back) < 10


def test_a_repeated_round_sends_the_same_model(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 3, 20)
    faults: dict[str, Fault] = {"hospital-01": spoilt, "hospital-02": spoilt}
    line = Line(shards, faults)
    plan = plan_of(rounds=2, attempts=2, wire="bf16")
    with pytest.raises(Exception, match="fewer than 2 good replies"):
        rounds_with(plan, line, tmp_path / "run").run()
    told = line.out[2]
    assert [instruction.base is None for instruction, _ in told] == [False] * 3 + [True] * 3
    spec = spec_of(FIRST)
    before = take_apart(read_strategy(tmp_path / "run/checkpoints/round-0001.pt")).sent
    changed = [received(blob, before, spec, "bf16") for _, blob in told[:3]]
    again = [unpack(blob, spec) for _, blob in told[3:]]
    assert all(same_bits(state, changed[0]) for state in changed + again)


def test_a_change_of_what_is_not_held_is_not_trained(tmp_path: Path) -> None:
    (shard,) = make_hospitals(tmp_path / "data", 1, 20)
    plan = plan_of(wire="int8")
    hospital = hospital_of(shard)
    hospital.answer(instruction_of(plan, 1), pack(FIRST))
    held = hospital.greet(GREETING).holds
    assert held == fingerprint(pack(FIRST))
    blob = sent(FIRST, FIRST, {}, "int8", generator(5, "wire")).blob
    for base, status in (("0" * 64, "failed"), (held, "ok")):
        reply, _ = hospital.answer(instruction_of(plan, 2, base=base), blob)
        assert reply.status == status
