"""Every method in whole runs: against a slow reference, killed and resumed, and on the wire."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from client.batches import batches
from client.examples import to_train_on
from client.policy import Policy
from common.checkpoint import read_checkpoint, read_strategy
from common.evaluation import loss_of
from common.model import build_model, load_state, state_of
from common.protocol import Instruction, Reply
from common.seeds import generator
from common.shard import open_shard
from common.state import OF_LOCAL, State, is_parameter, select, split
from server.rounds.beside import take_apart
from server.rounds.plan import Plan
from server.run.events import OwnStateLost
from server.run.folder import RunFolder
from tests.support.hospitals import (
    METHODS,
    Fault,
    LocalHospitals,
    copy_secrets,
    federate_by_hand,
    instruction_of,
    plan_of,
    run_strategy,
)
from tests.support.shards import make_hospitals
from tests.support.states import same_bits

COMBINATIONS = (
    *("clipped", "trimmed-mean", "fedadam of medians", "fednova of fedprox", "scaffold of heads"),
    *("backbones of one's own", "bf16", "topk of heads", "fedadagrad", "fedyogi"),
)
"""Methods whose parts, or what they remember, are in other methods."""

FIRST = state_of(build_model("densenet-tiny", 5))


def own_files(root: Path, number: int) -> dict[str, bytes]:
    files = root.rglob(f"round-{number:04d}.safetensors")
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


def rejected_in_round_2(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
    if instruction.identity.round == 2 and instruction.task == "train":
        return reply.model_copy(update={"weights": "0" * 64}), blob
    return reply, blob


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=pytest.mark.long) if name in COMBINATIONS else name
        for name in METHODS
    ],
)
def test_a_run_whose_both_ends_were_restarted_is_bit_for_bit_the_same(
    tmp_path: Path, method: str
) -> None:
    shards = make_hospitals(tmp_path / "data", 3, 20)
    faults: dict[str, Fault] = {"hospital-01": rejected_in_round_2}
    whole = RunFolder.create(tmp_path / "whole", {})
    own = tmp_path / "own"
    plan = plan_of(rounds=4, min_clients=2, **METHODS[method])
    run_strategy(plan, whole, LocalHospitals(shards, plan.seed, faults, own / "whole"), FIRST, {})

    half = RunFolder.create(tmp_path / "half", {})
    copy_secrets(whole.path, half.path, own / "whole", own / "half")
    shorter = plan_of(rounds=2, min_clients=2, **METHODS[method])
    run_strategy(shorter, half, LocalHospitals(shards, plan.seed, faults, own / "half"), FIRST, {})
    half.log.close()
    # The server died before the line of round 2: the round is done again, at both ends.
    lines = (half.path / "rounds.jsonl").read_text().splitlines(keepends=True)
    (half.path / "rounds.jsonl").write_text(lines[0])
    half = RunFolder.reopen(half.path, {})
    done = half.checkpoint(1)
    state, kept = read_checkpoint(done, "densenet-tiny", 0)[0], read_strategy(done)
    run_strategy(plan, half, LocalHospitals(shards, plan.seed, faults, own / "half"), state, kept)

    files = [folder.checkpoint(4) for folder in (whole, half)]
    models = [read_checkpoint(file, "densenet-tiny", 0)[0] for file in files]
    assert same_bits(*models)
    assert same_bits(*(read_strategy(file) for file in files))
    assert own_files(own / "whole", 4) == own_files(own / "half", 4)
    accounts = [sorted((own / name).glob("*/privacy.json")) for name in ("whole", "half")]
    assert [f.read_text() for f in accounts[0]] == [f.read_text() for f in accounts[1]]
    assert bool(own_files(own / "whole", 4)) == plan.training.keeps_state
    assert [len(record.hospitals) for record in whole.rounds()] == [3, 2, 3, 3]
    assert (whole.path / "final.pt").exists() == plan.one_model
    assert (whole.path / "best.pt").exists() == plan.one_model
    averages = [folder.path / "ema.pt" for folder in (whole, half)]
    assert [file.exists() for file in averages] == [bool(plan.ema)] * 2
    if plan.ema:
        assert same_bits(*(read_checkpoint(file, "densenet-tiny", 0)[0] for file in averages))


def by_hand(plan: Plan, shards: list[Path]) -> State:
    """Return the model after all rounds, in plain torch, with dictionaries of float64 tensors."""
    training, seed = plan.training, plan.seed
    names = [name for name in FIRST if is_parameter(name)]
    x = {name: torch.from_numpy(array.copy()) for name, array in FIRST.items()}
    c = {name: torch.zeros_like(x[name]) for name in names}
    own: dict[str, dict[str, torch.Tensor]] = {path.name: dict(c) for path in shards}
    h = dict(c)
    for number in range(1, plan.rounds + 1):
        ends, changes, sizes, lengths = [], [], [], []
        for path in shards:
            shard = open_shard(path)
            films, _ = shard.split(seed)
            told = instruction_of(plan, number)
            shard, chosen = to_train_on(shard, films, told, Policy(), path.name)
            model = build_model("densenet-tiny").train()
            load_state(model, {name: tensor.numpy() for name, tensor in x.items()})
            parameters = dict(model.named_parameters())
            rng = generator(seed, "training", number, path.name)
            speed = {name: torch.zeros_like(x[name]) for name in names}
            steps, ci = 0, own[path.name]
            epoch = batches(shard, chosen, training, rng, torch.device("cpu"))
            for batch in epoch:
                loss = loss_of(model(batch.inputs), batch.labels)
                for name, p in parameters.items():
                    distance = ((p - x[name]) ** 2).sum()
                    if training.local == "fedprox":
                        loss = loss + training.mu / 2 * distance
                    if training.local == "feddyn":
                        loss = loss + training.alpha / 2 * distance - (ci[name] * p).sum()
                grads = torch.autograd.grad(loss, list(parameters.values()))
                with torch.no_grad():
                    for (name, p), grad in zip(parameters.items(), grads, strict=True):
                        corrected = grad
                        if training.local == "scaffold":
                            corrected = grad + c[name] - ci[name]
                        speed[name] = training.momentum * speed[name] + corrected
                        p -= training.lr * speed[name]
                steps += 1
            y = {name: t.detach().clone() for name, t in model.state_dict().items()}
            length = sum((1 - 0.9 ** (k + 1)) / 0.1 for k in range(steps)) * training.lr
            if training.local == "scaffold":
                new = {n: ci[n] - c[n] + (x[n] - y[n]) / length for n in names}
            else:
                new = {n: ci[n] - training.alpha * (y[n] - x[n]) for n in names}
            changes.append({n: new[n] - ci[n] for n in names})
            own[path.name] = new
            ends.append(y)
            sizes.append(len(chosen))
            lengths.append(length)
        shares = [n / sum(sizes) for n in sizes]
        after = {}
        for name in x:
            values = [y[name] for y in ends]
            if name.endswith("num_batches_tracked"):
                after[name] = torch.stack(values).max()
            elif name in names and training.local in ("scaffold", "feddyn"):
                after[name] = sum(values) / len(values)
            elif name in names and plan.strategy.strategy == "fednova":
                ways = zip(shares, values, lengths, strict=True)
                direction = sum(p * (v - x[name]) / length for p, v, length in ways)
                longest = sum(p * length for p, length in zip(shares, lengths, strict=True))
                after[name] = x[name] + longest * direction
            else:
                after[name] = sum(p * v for p, v in zip(shares, values, strict=True))
        for name in names:
            moved = sum(change[name] for change in changes) / len(changes)
            c[name] = c[name] + moved
            if training.local == "feddyn":
                h[name] = h[name] - training.alpha * (after[name] - x[name])
                after[name] = after[name] - h[name] / training.alpha
        x = after
    return {name: tensor.numpy() for name, tensor in x.items()}


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "fednova", "scaffold", "feddyn"])
def test_a_network_with_batchnorm_is_trained_as_by_hand(tmp_path: Path, method: str) -> None:
    shards = make_hospitals(tmp_path / "data", 3, 30)
    settings = {"rounds": 3, "batch_size": 8, "lr": 0.02, **METHODS[method]}
    plan = plan_of(**settings)
    folder = RunFolder.create(tmp_path / "run", {})
    run_strategy(plan, folder, LocalHospitals(shards, plan.seed, {}), FIRST, {})
    after, _ = read_checkpoint(folder.path / "final.pt", "densenet-tiny", 0)
    expected = by_hand(plan, shards)
    for name, array in after.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-5, err_msg=name)
    other = by_hand(plan_of(**{**settings, "local": "sgd", "strategy": "fedavg"}), shards)
    moved = max(np.abs(other[n] - after[n]).max() for n in after if is_parameter(n))
    assert (moved > 1e-4) == (method != "fedavg")


def test_fedprox_without_a_pull_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 2, 30)
    plans = [plan_of(), plan_of(local="fedprox", mu=0.0)]
    assert same_bits(*(federate_by_hand(plan, shards) for plan in plans))


@pytest.mark.parametrize("wire", ["fp32", "bf16", "int8"])
def test_the_servers_control_variate_is_the_mean_of_the_hospitals(
    tmp_path: Path, wire: str
) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    plan = plan_of(rounds=3, wire=wire, **METHODS["scaffold"])
    folder = RunFolder.create(tmp_path / "run", {})
    run_strategy(plan, folder, LocalHospitals(shards, plan.seed, {}, tmp_path / "own"), FIRST, {})
    server = take_apart(read_strategy(folder.checkpoint(3))).strategy
    own = [split(load(file))[OF_LOCAL] for file in own_files(tmp_path / "own", 3).values()]
    assert len(own) == 3
    for name in own[0]:
        mean = np.mean([state[name] for state in own], axis=0, dtype=np.float64)
        np.testing.assert_allclose(server[name], mean, rtol=1e-4, atol=1e-5, err_msg=name)


class Wire(LocalHospitals):
    """Notes the tensors that travel, by round."""

    def __init__(self, shards: list[Path], seed: int, own: Path) -> None:
        faults: dict[str, Callable[..., Any]] = {path.name: self._returned for path in shards}
        self.down: list[tuple[int, set[str]]] = []
        self.up: list[set[str]] = []
        super().__init__(shards, seed, faults, own)

    def receives(self, instruction: Instruction, blob: bytes) -> bytes:
        self.down.append((instruction.identity.round, set(load(blob))))
        return blob

    def _returned(self, _told: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        if blob:
            self.up.append(set(load(blob)))
        return reply, blob


@pytest.mark.parametrize(
    ("shared", "stays"),
    [("no-batchnorm", ".norm"), ("backbone", "classifier."), ("head", "features.")],
)
def test_what_is_not_shared_stays_at_home(tmp_path: Path, shared: str, stays: str) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    plan = plan_of(rounds=3, shared=shared)
    folder = RunFolder.create(tmp_path / "run", {})
    wire = Wire(shards, plan.seed, tmp_path / "own")
    run_strategy(plan, folder, wire, FIRST, {})
    assert len(wire.up) == 9
    for number, tensors in [*wire.down, *((2, tensors) for tensors in wire.up)]:
        home = {name for name in tensors if stays in name}
        assert bool(home) == (number == 1)  # the first model's
        assert tensors
    after, _ = read_checkpoint(folder.checkpoint(3), "densenet-tiny", 0)
    own = [load(file) for file in own_files(tmp_path / "own", 3).values()]
    assert len(own) == 3
    moved = False
    for name, array in FIRST.items():
        if stays in name and array.ndim:
            assert np.array_equal(after[name], array), name
            moved |= not any(np.array_equal(mine[name], array) for mine in own)
    assert moved
    assert all(set(mine) == {name for name in FIRST if stays in name} for mine in own)
    assert not select(own[0], plan.training.shared)


def test_a_hospital_that_lost_what_was_its_own_says_so_and_begins_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    plan = plan_of(rounds=3, strategy="scaffold", local="scaffold", shared="no-batchnorm")
    folder = RunFolder.create(tmp_path / "run", {})
    run_strategy(plan_of(**{**METHODS["scaffold without batchnorm"], "rounds": 2}), folder,
        LocalHospitals(shards, plan.seed, {}, tmp_path / "own"), FIRST, {})  # fmt: skip
    folder.log.close()
    for file in (tmp_path / "own" / "hospital-01").rglob("round-*"):
        file.unlink()
    again = RunFolder.reopen(folder.path, {})
    done = again.checkpoint(2)
    wire = Wire(shards, plan.seed, tmp_path / "own")
    state, kept = read_checkpoint(done, "densenet-tiny", 0)[0], read_strategy(done)
    run_strategy(plan, again, wire, state, kept)
    (lost,) = [event for event in again.events() if isinstance(event, OwnStateLost)]
    assert (lost.site, lost.round) == ("hospital-01", 3)
    assert "give its client --state" in lost.reason
    assert lost.reason in caplog.text
    assert "kept of its own after round 2 of run test is lost" in caplog.text
    whole = [any(".norm" in name for name in sent) for number, sent in wire.down if number == 3]
    assert sorted(whole) == [False, False, True]
    assert len(again.rounds()[-1].hospitals) == 3


class Cuts(LocalHospitals):
    """Cuts what a hospital keeps of its own as it is asked for round 3."""

    def __init__(self, shards: list[Path], seed: int, own: Path) -> None:
        self._own = own
        super().__init__(shards, seed, {}, own)

    def receives(self, instruction: Instruction, blob: bytes) -> bytes:
        if instruction.identity.round == 3:
            cut(self._own / "hospital-01")
        return super().receives(instruction, blob)


def cut(own: Path) -> None:
    for file in own.rglob("round-0002.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.fault(
    "what a hospital keeps of its own is damaged while it is connected",
    "it is missing in that round, begins again with the whole model in the next one, and is not "
    "excluded",
)
@pytest.mark.parametrize(
    "settings",
    [
        {"shared": "no-batchnorm", "wire": "int8"},
        {"strategy": "scaffold", "local": "scaffold"},
        {"strategy": "feddyn", "local": "feddyn"},
        {"wire": "bf16"},
    ],
    ids=["a part of the model", "scaffold", "feddyn", "what has not travelled"],
)
def test_a_hospital_whose_own_state_is_damaged_in_mid_run_begins_again(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    plan = plan_of(rounds=6, **settings)
    folder = RunFolder.create(tmp_path / "run", {})
    run_strategy(plan, folder, Cuts(shards, plan.seed, tmp_path / "own"), FIRST, {})
    assert [record.missing for record in folder.rounds()] == [
        [] if number != 3 else ["hospital-01"] for number in range(1, 7)
    ]
    assert not any(record.rejected for record in folder.rounds())
    (lost,) = [event for event in folder.events() if isinstance(event, OwnStateLost)]
    assert (lost.site, lost.round) == ("hospital-01", 4)


def test_a_damaged_file_is_not_told_to_be_kept(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    plan = plan_of(shared="backbone")
    folder = RunFolder.create(tmp_path / "run", {})
    run_strategy(plan, folder, LocalHospitals(shards, plan.seed, {}, tmp_path / "own"), FIRST, {})
    cut(tmp_path / "own" / "hospital-01")
    again = LocalHospitals(shards, plan.seed, {}, tmp_path / "own").connections
    assert [sorted(each.own) for _, each in sorted(again.items())] == [[1, 2], [1], [1, 2]]
