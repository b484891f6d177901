import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from client.accelerator import ResidentFilms
from client.batches import Batch, batches
from client.health import standing
from client.hospital import Hospital
from client.private.gradients import clipped_sum
from client.training import train_epoch
from common.evaluation import predict
from common.model import build_model
from common.options import Augment, Mode, Training
from common.resident import copy_to
from common.seeds import generator
from common.shard import Shard
from common.state import select, spec_of
from common.wire import unpack
from experiments.launch.local import LocalFederation
from tests.gpu import GPU, needs_gpu
from tests.support.federations import lines_of, options
from tests.support.gradients import films, model_in
from tests.support.hospitals import GREETING, STATE, rounds_in
from tests.support.shards import make_hospitals, make_shard

pytestmark = needs_gpu


def hospital_on(device: str, shard: Shard, turns: Path) -> Hospital:
    hospital = Hospital("a", shard, torch.device(device), 1, turns)
    hospital.greet(GREETING)
    return hospital


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_a_round_is_that_of_the_cpu(tmp_path: Path, mode: Mode) -> None:
    shard = make_shard(tmp_path / "a", images=80)
    spec = spec_of(select(STATE, "head") if mode == "linear" else STATE)
    hospitals = [hospital_on(device, shard, tmp_path / "turns") for device in ("cpu", "cuda")]
    for instruction, blob in rounds_in(mode):
        (told, expected), (reply, weights) = (h.answer(instruction, blob) for h in hospitals)
        assert reply.status == told.status == "ok"
        assert reply.loss == pytest.approx(told.loss, rel=1e-4)
        found = unpack(weights, spec)
        for name, tensor in unpack(expected, spec).items():
            np.testing.assert_allclose(found[name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)
    assert hospitals[1].device.type == "cuda"


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_films_are_clipped_as_on_the_cpu(mode: Mode) -> None:
    inputs, labels = films(9, seed=3)
    sums = []
    for device in (torch.device("cpu"), GPU):
        model, _ = model_in(mode)
        parameters = {n: p for n, p in model.to(device).named_parameters() if p.requires_grad}
        found = clipped_sum(model, parameters, inputs.to(device), labels.to(device), 0.4, mode)
        sums.append({name: tensor.cpu() for name, tensor in found.items()})
    for name, tensor in sums[0].items():
        torch.testing.assert_close(sums[1][name], tensor, rtol=1e-3, atol=1e-5)


def shards_of(path: Path) -> list[Shard]:
    """Return a shard on disk, and the same in the GPU's memory."""
    shard = make_shard(path, images=80)
    return [shard, replace(shard, resident=ResidentFilms(shard.images).on(GPU))]


def epoch_of(shard: Shard, device: torch.device, augment: Augment = "none") -> Iterator[Batch]:
    training = Training(augment=augment, mixup=0.4, batch_size=16)
    return batches(shard, np.arange(80), training, generator(0, "t"), device)


@pytest.mark.parametrize("augment", ["none", "light"])
def test_films_in_its_memory_and_on_disk_make_the_same_batches(
    tmp_path: Path, augment: Augment
) -> None:
    shards = shards_of(tmp_path / "a")
    assert shards[1].resident is not None
    resident = replace(shards[0], resident=copy_to(shards[0].images, torch.device("cpu")))
    host = list(epoch_of(resident, torch.device("cpu"), augment))
    for shard in shards:
        epoch = list(epoch_of(shard, GPU, augment))
        assert len(epoch) == len(host) == 5
        for one, other in zip(epoch, host, strict=True):
            assert one.inputs.device.type == one.labels.device.type == "cuda"
            torch.testing.assert_close(one.inputs.cpu(), other.inputs, rtol=1e-4, atol=1e-4)
            assert torch.equal(one.labels.cpu(), other.labels)
            assert one.share == other.share


def test_films_in_its_memory_and_on_disk_have_the_same_logits(tmp_path: Path) -> None:
    model = build_model("densenet-tiny").to(GPU)
    mapped, resident = (predict(model, s, np.arange(80), GPU) for s in shards_of(tmp_path / "a"))
    torch.testing.assert_close(resident, mapped)


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("augment", ["none", "light"])
def test_nothing_in_a_step_waits_for_the_gpu(
    tmp_path: Path, resident: bool, augment: Augment
) -> None:
    shard = shards_of(tmp_path / "a")[resident]
    model = build_model("densenet-tiny").to(GPU).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)

    def watched() -> Iterator[Batch]:
        for number, batch in enumerate(epoch_of(shard, GPU, augment)):
            yield batch
            if not number:  # the first one may set up libraries
                torch.cuda.set_sync_debug_mode("error")
        torch.cuda.set_sync_debug_mode("default")

    def clip() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)

    weights = torch.ones(14, device=GPU)
    try:
        loss = train_epoch(model, optimizer, watched(), "bf16", weights=weights, before_step=clip)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert 0 < loss < 2


def test_compiled_training_is_near_that_of_the_model_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = make_shard(tmp_path / "a", images=80)
    losses = []
    for compiled in (False, True):
        hospital = Hospital("a", shard, GPU, precision="bf16", compiled=compiled)
        hospital.greet(GREETING)
        replies = [hospital.answer(*each)[0] for each in rounds_in("finetune")]
        losses.append([reply.loss for reply in replies])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert "cannot be compiled" not in caplog.text


def test_out_of_memory_costs_one_round_on_the_cpu(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hospital = hospital_on("cuda", make_shard(tmp_path / "a", size=128), tmp_path / "turns")
    rounds = rounds_in("finetune")
    try:
        for instruction, blob in rounds:
            short = instruction.identity.round == 2
            torch.cuda.set_per_process_memory_fraction(1e-6 if short else 1.0)
            caplog.clear()
            reply, _ = hospital.answer(instruction, blob)
            assert reply.status == "ok"
            assert ("cuda failed (OutOfMemoryError); the CPU takes over" in caplog.text) == short
            assert hospital.device.type == "cuda"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_hospitals_share_a_gpu(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    with LocalFederation(tmp_path / "logs", slots=1) as federation:
        federation.start_server(options(tmp_path / "run", rounds=2, clients=3))
        for shard in shards:
            state = tmp_path / "state" / shard.name
            federation.start_client(shard, ["--device", "cuda", "--state", str(state)])
        codes = federation.wait(120)
    assert set(codes.values()) == {0}
    assert [len(line["hospitals"]) for line in lines_of(tmp_path / "run")] == [3, 3]
    for shard in shards:
        text = (federation.logs / f"{shard.name}.log").read_text()
        assert "on cuda" in text
        assert "takes over" not in text


def test_the_health_check_sees_the_gpu(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"state": "connected", "device": "cuda"}))
    assert standing(tmp_path, datetime.now(UTC)) == "connected, on cuda"
