"""Hospitals in this very process, behind the interface that the round loop uses."""

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import torch

from client.hospital import Hospital
from client.policy import Policy
from common.checkpoint import Provenance
from common.model import build_model, state_of
from common.options import Mode, Training
from common.protocol import Greeting, Hello, Identity, Instruction, Reply
from common.shard import open_shard
from common.state import State, select, spec_of
from common.wire import fingerprint, pack, unpack
from server.rounds.ask import Site, SiteLost
from server.rounds.loop import Plan, Rounds
from server.run.folder import RunFolder
from tests.support.states import slow_mean

Fault = Callable[[Instruction, Reply, bytes], tuple[Reply, bytes]]


STATE = state_of(build_model("densenet-tiny", 1))

GREETING = Greeting(run="test", seed=5, nonce="0" * 32)


class LocalSite:
    """A hospital that answers at once, unless it has a fault."""

    def __init__(self, hospital: Hospital, greeting: Greeting, fault: Fault | None) -> None:
        self.greeting = greeting
        self.hello: Hello = hospital.greet(greeting, "localhost")
        self.backbone = self.hello.backbone
        self.told: list[str] = []
        self._hospital = hospital
        self._fault = fault
        self._weights = b""

    def ask(self, sealed: object, timeout: float) -> Reply:
        del timeout
        assert isinstance(sealed, Sealed)
        answer = self._hospital.answer(*sealed)
        reply, self._weights = self._fault(sealed.instruction, *answer) if self._fault else answer
        return reply

    def fetch(self, identity: Identity, timeout: float) -> bytes:
        del identity, timeout
        return self._weights

    def tell(self, identity: Identity, reason: str) -> None:
        del identity
        self.told.append(reason)


class Sealed(NamedTuple):
    instruction: Instruction
    blob: bytes


class LocalSites:
    """All of them are there from the start."""

    def __init__(self, shards: list[Path], seed: int, faults: dict[str, Fault]) -> None:
        greeting = GREETING.model_copy(update={"seed": seed})
        self.sites = {
            path.name: LocalSite(hospital_of(path), greeting, faults.get(path.name))
            for path in shards
        }
        self.dismissed: dict[str, str] = {}

    def wait_for(self, count: int, timeout: float) -> bool:
        del timeout
        return len(self.sites) >= count

    def present(self) -> dict[str, Site]:
        return dict(self.sites)

    def seal(self, instruction: Instruction, blob: bytes) -> object:
        return Sealed(instruction, blob)

    def wait_for_return(self, names: Collection[str], timeout: float) -> None:
        del names, timeout

    def standing(self, site: Site) -> str | None:
        return self.dismissed.get(site.hello.site)

    def dismiss(self, name: str, reason: str) -> None:
        self.dismissed[name] = reason
        del self.sites[name]


def hospital_of(
    path: Path, device: str = "cpu", policy: Policy | None = None, greeting: Greeting = GREETING
) -> Hospital:
    """Return a hospital that has been greeted."""
    hospital = Hospital(path.name, open_shard(path), torch.device(device), policy=policy)
    hospital.greet(greeting, "localhost")
    return hospital


def plan_of(**changes: object) -> Plan:
    fields: dict[str, object] = {
        "run": "test",
        "architecture": "densenet-tiny",
        "rounds": 2,
        "min_clients": 3,
        "quorum": 0.6,
        "attempts": 3,
        "strategy": "fedavg",
        "norm_limit": 0.0,
        "round_timeout": 20.0,
        "seed": 5,
    }
    trained = {name: value for name, value in changes.items() if name in Training.model_fields}
    training = Training.model_validate({"lr": 0.05, "batch_size": 16, **trained})
    others = {name: value for name, value in changes.items() if name not in trained}
    return Plan(training=training, **{**fields, **others})  # type: ignore[arg-type]


def rounds_of(
    plan: Plan, shards: list[Path], folder: Path, faults: dict[str, Fault] | None = None
) -> Rounds:
    return rounds_with(plan, LocalSites(shards, plan.seed, faults or {}), folder)


def rounds_with(plan: Plan, sites: LocalSites, folder: Path) -> Rounds:
    state = state_of(build_model(plan.architecture, plan.seed))
    return Rounds(
        plan,
        sites,
        RunFolder.create(folder, {}),
        state,
        Provenance(method="fedavg", run=plan.run, start=Provenance(method="random")),
        None,
    )


def instruction_of(plan: Plan, number: int, **changes: object) -> Instruction:
    fields = {
        "identity": {"run": plan.run, "round": number, "attempt": 1},
        "task": "train",
        "weights": "all",
        "seconds": plan.round_timeout,
        "architecture": plan.architecture,
        "seed": plan.seed,
        "training": plan.training,
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
        state = slow_mean(replies)
    return state


def lost(_instruction: Instruction, _reply: Reply, _blob: bytes) -> tuple[Reply, bytes]:
    raise SiteLost("the line went dead")


def late(_instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
    time.sleep(3)
    return reply, blob


def rounds_in(mode: Mode) -> list[tuple[Instruction, bytes]]:
    """Return three instructions; those of linear mode have the head alone but for the first."""
    plan = plan_of(mode=mode)
    later = ("head", pack(select(STATE, "head"))) if mode == "linear" else ("all", pack(STATE))
    return [
        (instruction_of(plan, 1), pack(STATE)),
        *((instruction_of(plan, number, weights=later[0]), later[1]) for number in (2, 3)),
    ]
