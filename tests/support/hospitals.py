"""Hospitals in this very process, behind the interface that the round loop uses."""

import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import torch

from client.hospital import Hospital
from client.own import OwnStates
from client.policy import Policy
from client.private.account import PrivacyAccount, Spent
from client.progress import Phase
from common.certificates import Peer
from common.message import Identity
from common.model import build_model, state_of
from common.options import Mode, Precision, Training
from common.protocol import Greeting, Hello, Instruction, Progress, Reply
from common.provenance import Provenance
from common.scores import Scores
from common.secure.messages import SecureAnswer, SecureCall
from common.shard import open_shard
from common.state import State, select, spec_of
from common.wire import fingerprint, pack, unpack
from server.rounds.ask import Connection, HospitalLost, Weights
from server.rounds.average import MovingAverage
from server.rounds.beside import take_apart
from server.rounds.loop import Rounds
from server.rounds.plan import Plan
from server.rounds.schedule import ScheduleSettings
from server.rounds.staleness import carried_over
from server.run.folder import NOISE_KEY, RunFolder
from server.run.records import RoundRecord
from server.strategies import make_strategy
from server.strategies.settings import StrategySettings
from tests.support.states import slow_mean

Fault = Callable[[Instruction, Reply, bytes], tuple[Reply, bytes]]
Receives = Callable[[Instruction, bytes], bytes]


STATE = state_of(build_model("densenet-tiny", 1))

GREETING = Greeting(run="test", seed=5)


class LocalConnection:
    """To a hospital that answers at once, unless it has a fault."""

    peer: Peer | None = None

    def __init__(
        self, hospital: Hospital, greeting: Greeting, receives: Receives, fault: Fault | None
    ) -> None:
        self.hello: Hello = hospital.greet(greeting)
        self.backbone = self.hello.backbone
        self.holds = self.hello.holds
        self.own = set(self.hello.own)
        self.told: list[str] = []
        self._hospital = hospital
        self._receives = receives
        self._fault = fault
        self._weights = b""

    def ask(
        self,
        instruction: Instruction,
        weights: Weights,
        timeout: float,
        follow: Callable[[Progress], object],
    ) -> Reply:
        del timeout

        def tell(phase: Phase, share: float) -> None:
            follow(Progress(identity=instruction.identity, phase=phase, share=share))

        blob = self._receives(instruction, weights.blob)
        answer = self._hospital.answer(instruction, blob, tell=tell)
        reply, self._weights = self._fault(instruction, *answer) if self._fault else answer
        return reply

    def fetch(self, identity: Identity, timeout: float) -> bytes:
        del identity, timeout
        return self._weights

    def secure(self, call: SecureCall, timeout: float) -> SecureAnswer:
        del timeout
        answer, self._weights = self._hospital.sums.answer(call)
        return answer

    def tell(self, identity: Identity, reason: str) -> None:
        del identity
        self.told.append(reason)


class LocalHospitals:
    """All of them are connected from the start; each keeps what is its own in ``own/NAME``."""

    def __init__(
        self,
        shards: list[Path],
        seed: int,
        faults: dict[str, Fault],
        own: Path | None = None,
        secure: bool = False,
    ) -> None:
        greeting = GREETING.model_copy(update={"seed": seed, "secure": secure})
        self.connections = {
            path.name: LocalConnection(
                hospital_of(path, own=own and own / path.name),
                greeting,
                self.receives,
                faults.get(path.name),
            )
            for path in shards
        }
        self.dismissed: dict[str, str] = {}

    def receives(self, instruction: Instruction, blob: bytes) -> bytes:
        """Return what a hospital receives when ``blob`` is sent to it."""
        del instruction
        return blob

    def wait_for(self, count: int, timeout: float) -> bool:
        del timeout
        return len(self.connections) >= count

    def present(self) -> dict[str, Connection]:
        return {**self.connections}

    def wait_for_return(self, names: Collection[str], timeout: float) -> None:
        del names, timeout

    def standing(self, connection: Connection) -> str | None:
        return self.dismissed.get(connection.hello.site)

    def dismiss(self, name: str, reason: str) -> None:
        self.dismissed[name] = reason
        del self.connections[name]


def hospital_of(
    path: Path,
    device: str = "cpu",
    policy: Policy | None = None,
    greeting: Greeting = GREETING,
    precision: Precision | None = "fp32",
    own: Path | None = None,
) -> Hospital:
    """Return a hospital that has been greeted."""
    if own is not None:
        own.mkdir(parents=True, exist_ok=True)
    hospital = Hospital(
        path.name,
        open_shard(path),
        torch.device(device),
        policy=policy,
        precision=precision,
        own=OwnStates(own),
        privacy=PrivacyAccount(own and own / "privacy.json", policy.privacy if policy else None),
    )
    hospital.greet(greeting)
    return hospital


def plan_of(**changes: object) -> Plan:
    fields: dict[str, object] = {
        "run": "test",
        "architecture": "densenet-tiny",
        "rounds": 2,
        "min_clients": 3,
        "quorum": 0.6,
        "attempts": 3,
        "norm_limit": 0.0,
        "round_timeout": 20.0,
        "seed": 5,
    }
    trained = {name: value for name, value in changes.items() if name in Training.model_fields}
    training = Training.model_validate({"lr": 0.05, "batch_size": 16, **trained})
    combined = {name: changes[name] for name in StrategySettings.model_fields if name in changes}
    strategy = StrategySettings.model_validate(combined)
    scheduled = {name: changes[name] for name in ScheduleSettings.model_fields if name in changes}
    fields["schedule"] = ScheduleSettings.model_validate(scheduled)
    known = trained.keys() | combined.keys() | scheduled.keys()
    others = {name: value for name, value in changes.items() if name not in known}
    return Plan(training=training, strategy=strategy, **{**fields, **others})  # type: ignore[arg-type]


def rounds_of(
    plan: Plan, shards: list[Path], folder: Path, faults: dict[str, Fault] | None = None
) -> Rounds:
    return rounds_with(plan, LocalHospitals(shards, plan.seed, faults or {}), folder)


def rounds_with(
    plan: Plan,
    hospitals: LocalHospitals,
    folder: Path,
    test: Callable[[State], Scores] | None = None,
) -> Rounds:
    state = state_of(build_model(plan.architecture, plan.seed))
    return Rounds(
        plan,
        hospitals,
        RunFolder.create(folder, {}),
        state,
        Provenance(method="fedavg", run=plan.run, start=Provenance(method="random")),
        test,
    )


def instruction_of(plan: Plan, number: int, **changes: object) -> Instruction:
    fields = {
        "identity": {"run": plan.run, "round": number, "attempt": 1},
        "task": "train",
        "weights": "all",
        "seconds": plan.round_timeout,
        "architecture": plan.architecture,
        "seed": plan.seed,
        "training": plan.training_in(number),
        **changes,
    }
    return Instruction.model_validate(fields)


def federate_by_hand(
    plan: Plan,
    shards: list[Path],
    precision: Precision | None = "fp32",
    mean: Callable[[list[tuple[State, int]]], State] = slow_mean,
) -> State:
    """Return the state after all rounds, computed one hospital after another."""
    return models_by_hand(plan, shards, precision, mean)[-1]


def models_by_hand(
    plan: Plan,
    shards: list[Path],
    precision: Precision | None = "fp32",
    mean: Callable[[list[tuple[State, int]]], State] = slow_mean,
) -> list[State]:
    """Return the first state and that after each round; see :func:`federate_by_hand`."""
    states = [state_of(build_model(plan.architecture, plan.seed))]
    hospitals = [hospital_of(path, precision=precision) for path in shards]
    for number in range(1, plan.rounds + 1):
        replies = []
        for hospital in hospitals:
            reply, blob = hospital.answer(instruction_of(plan, number), pack(states[-1]))
            assert reply.weights == fingerprint(blob)
            replies.append((unpack(blob, spec_of(states[-1])), reply.examples))
        states.append(mean(replies))
    return states


def federate_as_recorded(
    plan: Plan, shards: list[Path], lines: list[RoundRecord], precision: Precision | None = "fp32"
) -> State:
    """Return the state after rounds of which it is known who counted, by what chance, how late."""
    history = [state_of(build_model(plan.architecture, plan.seed))]
    hospitals = {path.name: hospital_of(path, precision=precision) for path in shards}
    for line in lines:
        now, replies = history[-1], []
        for name, record in line.hospitals.items():
            began = line.round - record.stale
            base = history[began - 1]
            reply, blob = hospitals[name].answer(instruction_of(plan, began), pack(base))
            after = carried_over(base, unpack(blob, spec_of(base)), now, record.stale)
            replies.append((after, reply.examples / (line.drawn or {}).get(name, 1.0)))
        history.append(slow_mean(replies))
    return history[-1]


def lost(_instruction: Instruction, _reply: Reply, _blob: bytes) -> tuple[Reply, bytes]:
    raise HospitalLost("the line went dead")


def far(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
    """Return an update far longer than the others'."""
    if instruction.task == "evaluate":
        return reply, blob
    state = unpack(blob, spec_of(state_of(build_model("densenet-tiny"))))
    state["features.norm0.weight"] = state["features.norm0.weight"] + 1000
    blob = pack(state)
    return reply.model_copy(update={"weights": fingerprint(blob)}), blob


def rounds_in(mode: Mode) -> list[tuple[Instruction, bytes]]:
    """Return three instructions; those of linear mode have the head alone but for the first."""
    plan = plan_of(mode=mode)
    later = ("head", pack(select(STATE, "head"))) if mode == "linear" else ("all", pack(STATE))
    return [
        (instruction_of(plan, 1), pack(STATE)),
        *((instruction_of(plan, number, weights=later[0]), later[1]) for number in (2, 3)),
    ]


METHODS: dict[str, dict[str, object]] = {
    "fedavg": {},
    "fedavgm": {"strategy": "fedavgm"},
    "fedadagrad": {"strategy": "fedadagrad"},
    "fedadam": {"strategy": "fedadam"},
    "fedyogi": {"strategy": "fedyogi"},
    "fedadam of medians": {"strategy": "fedadam", "average": "median"},
    "fednova": {"strategy": "fednova"},
    "fednova of fedprox": {"strategy": "fednova", "local": "fedprox", "mu": 0.5},
    "scaffold": {"strategy": "scaffold", "local": "scaffold"},
    "feddyn": {"strategy": "feddyn", "local": "feddyn"},
    "clipped": {"strategy": "clipped"},
    "trimmed-mean": {"strategy": "trimmed-mean"},
    "median": {"strategy": "median"},
    "fedprox": {"local": "fedprox", "mu": 0.5},
    "fedbn": {"shared": "no-batchnorm"},
    "heads of one's own": {"shared": "backbone"},
    "backbones of one's own": {"shared": "head"},
    "scaffold without batchnorm": {
        "strategy": "scaffold",
        "local": "scaffold",
        "shared": "no-batchnorm",
    },
    "all options of local training": {
        "strategy": "fedadam",
        "ema": 0.5,
        "schedule": "cosine",
        "warmup": 1,
        "weight_decay": 0.001,
        "clip_norm": 0.5,
        "positive_weights": True,
        "augment": "light",
        "mixup": 0.4,
    },
    "scaffold of heads": {"strategy": "scaffold", "local": "scaffold", "mode": "linear"},
    "bf16": {"wire": "bf16", "strategy": "fedadam"},
    "int8": {"wire": "int8", "strategy": "scaffold", "local": "scaffold"},
    "topk": {"wire": "topk", "shared": "no-batchnorm"},
    "private films": {"dp": "sample", "dp_clip": 0.5, "strategy": "fedavgm", "wire": "int8"},
    "private hospitals": {"dp": "site", "dp_quantile": 0.5, "strategy": "fedadam"},
    "topk of heads": {"wire": "topk", "mode": "linear", "strategy": "fednova"},
}


def copy_secrets(run: Path, to_run: Path, states: Path, to_states: Path) -> None:
    """Give another run, and hospitals that have paid for nothing, the secrets of these."""
    if (run / NOISE_KEY).exists():
        shutil.copy(run / NOISE_KEY, to_run)
    for file in states.glob("*/privacy.json"):
        secret = Spent.model_validate_json(file.read_bytes()).secret
        (to_states / file.parent.name).mkdir(parents=True)
        text = Spent(secret=secret).model_dump_json()
        (to_states / file.parent.name / file.name).write_text(text)


def run_strategy(
    plan: Plan, folder: RunFolder, hospitals: LocalHospitals, state: State, kept: State
) -> None:
    """Run the rounds that are left, with a strategy that goes on from what it had kept."""
    key = folder.path / NOISE_KEY if plan.training.dp == "site" else None
    strategy = make_strategy(plan.strategy, noise_key=key)
    beside = take_apart(kept)
    strategy.load_state_dict(beside.strategy)
    average = MovingAverage(plan.ema, beside.average) if beside.average else None
    first = Provenance(method="random")
    provenance = Provenance(method="test", run="test", start=first)
    gone_out = beside.sent, beside.residual
    Rounds(plan, hospitals, folder, state, provenance, None, strategy, average, *gone_out).run()
