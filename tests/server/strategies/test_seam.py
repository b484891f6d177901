"""Strategies that remember, and what hospitals may return, in whole runs."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from common.checkpoint import read_checkpoint, read_strategy
from common.model import build_model, state_of
from common.protocol import Instruction, Reply
from common.provenance import Provenance
from common.state import CONTROL, WEIGHTS, State, is_float, join, parameters_of
from common.wire import fingerprint, pack
from server.rounds.beside import take_apart
from server.rounds.loop import Rounds
from server.rounds.plan import Plan
from server.run.folder import RunFolder
from server.strategies import make_strategy
from server.strategies.base import RoundInfo, Strategy, Updates, weighted_mean
from tests.support.hospitals import LocalHospitals, plan_of
from tests.support.shards import make_hospitals
from tests.support.states import same_bits

PROVENANCE = Provenance(method="test", run="test", start=Provenance(method="random"))


class Momentum(Strategy):
    """FedAvg whose step is averaged over the rounds."""

    def __init__(self) -> None:
        self.step: State = {}

    def combine(self, before: State, updates: Updates, about: RoundInfo) -> State:
        del about
        mean = weighted_mean(before, ((u.weights, u.info.examples) for u in updates))
        floats = [name for name, array in before.items() if is_float(array)]
        self.step = {
            name: 0.5 * self.step.get(name, np.float32(0)) + mean[name] - before[name]
            for name in floats
        }
        return mean | {n: np.asarray(before[n] + self.step[n], before[n].dtype) for n in floats}

    def state_dict(self) -> State:
        return self.step

    def load_state_dict(self, state: State) -> None:
        self.step = state


def rounds_of(
    plan: Plan, shards: list[Path], folder: RunFolder, strategy: Strategy, state: State
) -> Rounds:
    hospitals = LocalHospitals(shards, plan.seed, {})
    return Rounds(plan, hospitals, folder, state, PROVENANCE, None, strategy)


def final(folder: RunFolder) -> State:
    return read_checkpoint(folder.path / "final.pt", "densenet-tiny", 0)[0]


def test_what_a_strategy_remembers_survives_the_server(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    first = state_of(build_model("densenet-tiny", 5))
    whole = RunFolder.create(tmp_path / "whole", {})
    rounds_of(plan_of(rounds=3), shards, whole, Momentum(), first).run()

    half = RunFolder.create(tmp_path / "half", {})
    rounds_of(plan_of(rounds=2), shards, half, Momentum(), first).run()
    half.log.close()
    again = RunFolder.reopen(half.path, {})
    state, _ = read_checkpoint(again.checkpoint(2), "densenet-tiny", 0)
    kept = take_apart(read_strategy(again.checkpoint(2)))
    for remembered, same in ((kept.strategy, True), ({}, False)):
        strategy = Momentum()
        strategy.load_state_dict(remembered)
        rounds_of(plan_of(rounds=3), shards, again, strategy, state).run()
        assert same_bits(final(again), final(whole)) == same
        again.log.close()
        lines = (again.path / "rounds.jsonl").read_text().splitlines(keepends=True)
        (again.path / "rounds.jsonl").write_text("".join(lines[:2]))
        again = RunFolder.reopen(half.path, {})


def claims_control(_told: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
    """Return a control variate beside the weights, as if it were the hospital's to tell."""
    if not blob:
        return reply, blob
    weights = {name: array for name, array in load(blob).items() if "/" not in name}
    control = {name: np.full_like(a, 1000) for name, a in parameters_of(weights).items()}
    blob = pack(join({WEIGHTS: weights, CONTROL: control}))
    return reply.model_copy(update={"weights": fingerprint(blob)}), blob


@pytest.mark.fault(
    "a hospital claims how its control variate has changed, under scaffold",
    "its reply is rejected: the server computes it from the weights and is told by none",
)
@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_no_hospital_is_believed_its_control_variate(tmp_path: Path, mode: str) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    plan = plan_of(rounds=2, min_clients=2, mode=mode, strategy="scaffold", local="scaffold")
    folder = RunFolder.create(tmp_path / "run", {})
    hospitals = LocalHospitals(shards, plan.seed, {"hospital-01": claims_control})
    first = state_of(build_model("densenet-tiny", 5))
    Rounds(plan, hospitals, folder, first, PROVENANCE, None, make_strategy(plan.strategy)).run()
    for record in folder.rounds():
        assert list(record.hospitals) == ["hospital-00", "hospital-02"]
        assert "'control/" in record.rejected["hospital-01"]
    control = read_strategy(folder.checkpoint(2))
    assert control
    assert all(np.abs(array).max() < 10 for array in control.values())
