from pathlib import Path
from typing import Any

import pytest
import torch

from common.shard import Shard
from pretrain.batches import Batches
from pretrain.engine import Engine
from pretrain.recipe import MethodName
from pretrain.run_folder import RunFolder
from tests.gpu import GPU, needs_gpu
from tests.support.pretrain_commands import lines_of, pretrain, start, wait_until
from tests.support.pretrain_commands import options as cli_options
from tests.support.pretraining import CPU, METHODS, all_parts, recipe_of, same
from tests.support.shards import make_shard

pytestmark = needs_gpu


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return make_shard(tmp_path / "shard", images=40, labelled=False)


def engine_of(
    folder: Path, shard: Shard, method: MethodName, device: torch.device = GPU, **options: Any
) -> Engine:
    compiled = options.pop("compiled", False)
    recipe = recipe_of(method, **options)
    return Engine(recipe, shard, folder / "c.pt", device, None, compiled=compiled)


def losses(engine: Engine, last: int = 4) -> list[float]:
    steps = engine.batches.steps(engine.trainer.step, last)
    return [float(engine.trainer.take_step(parts).loss) for parts in steps]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_in_a_step_waits_for_the_gpu(
    tmp_path: Path, shard: Shard, method: MethodName
) -> None:
    engine = engine_of(tmp_path, shard, method, precision="bf16")
    steps = engine.batches.steps(0, 3)
    engine.trainer.take_step(next(steps))  # the first one may set up libraries
    parts = next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine.trainer.take_step(parts)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("method", METHODS)
def test_steps_are_those_of_the_cpu(tmp_path: Path, shard: Shard, method: MethodName) -> None:
    expected, found = (losses(engine_of(tmp_path, shard, method, on)) for on in (CPU, GPU))
    assert len(set(expected)) == 4
    assert found == pytest.approx(expected, rel=1e-3)


def test_images_in_its_memory_and_on_disk_make_the_same_batches(shard: Shard) -> None:
    recipe = recipe_of("simclr", accumulate=2)
    resident, mapped = (Batches(shard, recipe, GPU, resident=on) for on in (True, False))
    assert Batches(shard, recipe, GPU).resident
    parts = all_parts(mapped, 0, 7)
    assert {part.images.device.type for part in parts} == {"cuda"}
    assert same(all_parts(resident, 0, 7), parts)


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("method", METHODS)
def test_a_run_goes_on_from_its_state(tmp_path: Path, shard: Shard, method: MethodName) -> None:
    whole = losses(engine_of(tmp_path, shard, method), last=8)
    cut = engine_of(tmp_path, shard, method)
    before = losses(cut)
    folder = RunFolder(tmp_path / "c.run")
    folder.path.mkdir()
    folder.write_state(cut.trainer.state())
    resumed = engine_of(tmp_path, shard, method)
    state = folder.read_state()
    assert state is not None
    resumed.trainer.load(state)
    assert before + losses(resumed, last=8) == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("method", ["mocov2", "byol"])
def test_compiled_networks_compute_the_same(
    tmp_path: Path, shard: Shard, method: MethodName
) -> None:
    eager, compiled = (
        losses(engine_of(tmp_path, shard, method, precision="bf16", compiled=compiled))
        for compiled in (False, True)
    )
    assert compiled == pytest.approx(eager, rel=0.02)


def test_a_killed_run_goes_on(tmp_path: Path, shard: Shard) -> None:
    out = tmp_path / "killed.pt"
    options = ["--epochs", "40", "--device", "cuda", "--queue", "16"]
    whole = pretrain(shard.path, tmp_path / "whole.pt", *options, method="mocov2")
    assert whole.returncode == 0, whole.stderr
    assert "steps on cuda" in whole.stderr
    process = start(tmp_path / "log", *cli_options(shard.path, out, *options, method="mocov2"))
    try:
        wait_until(lambda: len(lines_of(out)) > 5, process)
    finally:
        process.kill()
        process.wait(20)
    done = len(lines_of(out))
    assert done < 40
    resumed = pretrain(shard.path, out, *options, "--resume", method="mocov2")
    assert resumed.returncode == 0, resumed.stderr
    curves = [[line["loss"] for line in lines_of(path)] for path in (tmp_path / "whole.pt", out)]
    assert curves[1] == pytest.approx(curves[0], rel=0.03)
