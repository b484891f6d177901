"""Strategies that remember, and that let more than weights travel, in whole runs."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from common.checkpoint import Provenance, read_checkpoint, read_strategy
from common.model import build_model, state_of
from common.protocol import Instruction, Reply
from common.state import WEIGHTS, State, is_float, join, parameters_of, split
from common.wire import fingerprint, pack
from server.rounds.beside import take_apart
from server.rounds.loop import Rounds
from server.rounds.plan import Plan
from server.run.folder import RunFolder
from server.strategies.base import RoundInfo, Strategy, Updates, weighted_mean
from tests.support.hospitals import Fault, LocalHospitals, plan_of
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


class Controlled(Strategy):
    """FedAvg that sends a control variate and gets one back from each hospital."""

    extra_states = ("control",)

    def __init__(self) -> None:
        self.back: list[State] = []

    def sends(self, before: State) -> dict[str, State]:
        return {"control": {n: np.full_like(a, 7) for n, a in parameters_of(before).items()}}

    def combine(self, before: State, updates: Updates, about: RoundInfo) -> State:
        del about
        self.back += [update.states["control"] for update in updates]
        return weighted_mean(before, ((u.weights, u.info.examples) for u in updates))


class WithControl(LocalHospitals):
    """Hospitals that understand control variates, and return them plus 1, or not at all."""

    def __init__(self, shards: list[Path], seed: int, forgetful: str) -> None:
        faults: dict[str, Fault] = {
            path.name: self._add for path in shards if path.name != forgetful
        }
        super().__init__(shards, seed, faults)
        self.control: State = {}

    def receives(self, instruction: Instruction, blob: bytes) -> bytes:
        states = split(load(blob))
        if instruction.task == "train":
            self.control = states["control"]
        return pack(states[WEIGHTS])

    def _add(self, instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        if instruction.task == "evaluate":
            return reply, blob
        # In linear mode the head alone is trained.
        weights = load(blob)
        control = {n: a + 1 for n, a in self.control.items() if n in weights}
        blob = pack(join({WEIGHTS: weights, "control": control}))
        return reply.model_copy(update={"weights": fingerprint(blob)}), blob


@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_named_states_travel_beside_the_weights(tmp_path: Path, mode: str) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    plan = plan_of(rounds=2, min_clients=2, mode=mode)
    strategy = Controlled()
    folder = RunFolder.create(tmp_path / "run", {})
    hospitals = WithControl(shards, plan.seed, forgetful="hospital-01")
    first = state_of(build_model("densenet-tiny", 5))
    Rounds(plan, hospitals, folder, first, PROVENANCE, None, strategy).run()
    assert len(strategy.back) == 4
    assert all((array == 8).all() for control in strategy.back for array in control.values())
    for record in folder.rounds():
        assert list(record.hospitals) == ["hospital-00", "hospital-02"]
        assert "control/" in record.rejected["hospital-01"]
