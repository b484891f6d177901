"""Hospitals in this very process, behind the interface that the round loop uses."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from client.hospital import Hospital
from common.checkpoint import Provenance
from common.data.shard import open_shard
from common.model import build_model, state_of
from common.protocol import Greeting, Hello, Instruction, Reply
from common.wire import State, fingerprint, pack, spec_of, unpack
from server.rounds import Plan, Rounds
from server.run_folder import RunFolder
from server.sites import Site, SiteLost
from tests.helpers import exact_mean

Fault = Callable[[Instruction, Reply, bytes], tuple[Reply, bytes]]


class LocalSite:
    """A hospital that answers at once, unless it has a fault."""

    def __init__(self, hospital: Hospital, greeting: Greeting, fault: Fault | None) -> None:
        self.hello: Hello = hospital.greet(greeting)
        self.backbone = self.hello.backbone
        self._hospital = hospital
        self._fault = fault

    def ask(self, instruction: Instruction, blob: bytes, timeout: float) -> tuple[Reply, bytes]:
        del timeout
        answer = self._hospital.answer(instruction, blob)
        return self._fault(instruction, *answer) if self._fault else answer


class LocalSites:
    """All of them are there from the start."""

    def __init__(self, shards: list[Path], seed: int, faults: dict[str, Fault]) -> None:
        greeting = Greeting(run="test", seed=seed)
        self.sites: dict[str, Site] = {
            path.name: LocalSite(hospital_of(path), greeting, faults.get(path.name))
            for path in shards
        }

    def wait_for(self, count: int, timeout: float) -> bool:
        del timeout
        return len(self.sites) >= count

    def present(self) -> dict[str, Site]:
        return dict(self.sites)


def hospital_of(path: Path) -> Hospital:
    return Hospital(path.name, open_shard(path), torch.device("cpu"))


def plan_of(**changes: object) -> Plan:
    fields: dict[str, object] = {
        "run": "test",
        "architecture": "densenet-tiny",
        "mode": "finetune",
        "rounds": 2,
        "min_clients": 3,
        "quorum": 0.6,
        "round_timeout": 20.0,
        "lr": 0.05,
        "momentum": 0.9,
        "batch_size": 16,
        "local_epochs": 1,
        "label_fraction": 1.0,
        "seed": 5,
    }
    return Plan(**{**fields, **changes})  # type: ignore[arg-type]


def rounds_of(
    plan: Plan, shards: list[Path], folder: Path, faults: dict[str, Fault] | None = None
) -> Rounds:
    state = state_of(build_model(plan.architecture, plan.seed))
    return Rounds(
        plan,
        LocalSites(shards, plan.seed, faults or {}),
        RunFolder(folder, {}),
        state,
        Provenance(method="fedavg", run=plan.run, start=Provenance(method="random")),
        None,
    )


def instruction_of(plan: Plan, number: int, **changes: object) -> Instruction:
    fields = {
        "identity": {"run": plan.run, "round": number, "attempt": 1},
        "task": "train",
        "weights": "all",
        **{
            name: getattr(plan, name)
            for name in (
                *("architecture", "mode", "lr", "momentum", "batch_size", "local_epochs"),
                *("label_fraction", "seed"),
            )
        },
        **changes,
    }
    return Instruction.model_validate(fields)


def federate_by_hand(plan: Plan, shards: list[Path]) -> State:
    """Return the state after all rounds, computed one hospital after another with fractions."""
    state = state_of(build_model(plan.architecture, plan.seed))
    hospitals = [hospital_of(path) for path in shards]
    for number in range(1, plan.rounds + 1):
        replies = []
        for hospital in hospitals:
            reply, blob = hospital.answer(instruction_of(plan, number), pack(state))
            assert reply.weights == fingerprint(blob)
            replies.append((unpack(blob, spec_of(state)), reply.examples))
        state = exact_mean(replies)
    return state


def lost(_instruction: Instruction, _reply: Reply, _blob: bytes) -> tuple[Reply, bytes]:
    raise SiteLost("the line went dead")


def late(_instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
    time.sleep(3)
    return reply, blob
