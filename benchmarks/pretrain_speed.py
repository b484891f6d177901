"""The speed of pretraining, compared with plain training and the hardware's bound.

``python -m benchmarks.pretrain_speed [--out FILE]`` prints, for every method

- on a GPU: images/s at 224 pixels with batch 256, eager and compiled; the rate of a plain
  torchvision training loop of the same backbone on images in GPU memory; the bound from memory
  traffic; and the method's rate as a share of the plain rate divided by the method's work;
- on a CPU: the share of a step outside the networks, from the difference to the networks' passes
  and optimiser step alone on prepared views. Both alternate; results are medians.

Work counts 1 for a forward pass and 2 for a backward pass.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import densenet121

from common.shard import Entry, Shard, create_shard, open_shard
from pretrain.engine import Engine
from pretrain.methods.base import Method
from pretrain.methods.byol import BYOL
from pretrain.methods.mocov2 import MoCoV2
from pretrain.methods.rotation import turn
from pretrain.presets import make_recipe
from pretrain.recipe import MethodName, Recipe

METHODS: tuple[MethodName, ...] = ("mocov2", "simclr", "byol", "rotation")
WORK = {"plain": 3, "mocov2": 3 + 1, "simclr": 3 + 3, "byol": 3 + 3 + 1 + 1, "rotation": 4 * 3}
"""Work per image, in forward passes."""

TRAFFIC_MB = {"eager": 645, "compiled": 386}
"""Memory traffic of DenseNet-121 per training image of 224 pixels in 16 bit, counted by layer.
Compiled: with BatchNorm and ReLU fused, and no copies for concatenation."""

GPU_BATCH, GPU_STEPS, GPU_ROUNDS, WARM_UP = 256, 10, 5, 5
CPU_ROUNDS = 5


def make_shard(folder: Path, images: int, size: int) -> Shard:
    """Write a shard of noise; the speed does not depend on the images."""
    entries = [Entry(str(i), str(i), "train") for i in range(images)]
    rng = np.random.default_rng(0)
    with create_shard(
        folder, entries=entries, labels=None, size=size, source="benchmark"
    ) as pixels:
        pixels[:] = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
    return open_shard(folder)


def engine_of(recipe: Recipe, shard: Shard, device: torch.device, compiled: bool) -> Engine:
    """Return an engine that writes no files."""
    return Engine(recipe, shard, Path("unused.pt"), device, None, compiled=compiled)


def rate_on_gpu(step: Callable[[], object], images: int) -> float:
    """Return images/s: the median of several rounds, after warm-up steps."""
    rates = []
    for number in range(GPU_ROUNDS + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(WARM_UP if number == 0 else GPU_STEPS):
            step()
        torch.cuda.synchronize()
        rates.append(GPU_STEPS * images / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def plain_step(device: torch.device, batch: int, compiled: bool) -> Callable[[], object]:
    """Return a step of plain supervised training of torchvision's model on prepared images."""
    model = densenet121(num_classes=14).to(device, memory_format=torch.channels_last).train()
    images = torch.randn(batch, 3, 224, 224, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 2, (batch, 14), device=device).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    if compiled:
        model.compile()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(images)
        nn.functional.binary_cross_entropy_with_logits(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def bandwidth(device: torch.device) -> float:
    """Return the bytes/s read and written by a copy within the GPU's memory."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return rate_on_gpu(lambda: target.copy_(source), 2 * source.nbytes)


def method_step(
    method: MethodName, shard: Shard, device: torch.device, compiled: bool
) -> Callable[[], object]:
    """Return a full step of pretraining, including images and views."""
    recipe = make_recipe("cxr", method, precision="bf16", epochs=1000, batch_size=GPU_BATCH)
    engine = engine_of(recipe, shard, device, compiled)
    steps = engine.batches.steps(0, engine.trainer.steps)
    return lambda: engine.trainer.take_step(next(steps))


def measure_gpu(folder: Path) -> dict[str, Any]:
    """Print and return the rates on the GPU."""
    device = torch.device("cuda")
    torch.backends.cudnn.benchmark = True  # as the trainer sets it; for the plain loop too
    shard = make_shard(folder / "shard", 8 * GPU_BATCH, 256)
    speed = bandwidth(device)
    print(f"{torch.cuda.get_device_name()}, memory {speed / 1e9:,.0f} GB/s by copying")
    result: dict[str, Any] = {"device": torch.cuda.get_device_name(), "bytes_per_second": speed}
    print(f"{'':22}{'images/s':>10}{'first step, s':>15}", end="")
    print(f"{'of plain / work':>17}{'of the bound / work':>21}", flush=True)
    plain: dict[str, float] = {}
    for method in (None, *METHODS):
        name = method or "plain"
        for way in ("eager", "compiled"):
            torch._dynamo.reset()
            start = time.perf_counter()
            if method is None:
                step = plain_step(device, GPU_BATCH, way == "compiled")
            else:
                step = method_step(method, shard, device, way == "compiled")
            step()
            torch.cuda.synchronize()
            first = time.perf_counter() - start
            rate = rate_on_gpu(step, GPU_BATCH // 4 if name == "rotation" else GPU_BATCH)
            share = rate * WORK[name] / 3
            plain.setdefault(way, share)
            of_plain, of_bound = share / plain[way], share * TRAFFIC_MB[way] * 1e6 / speed
            rates = f"{rate:>10,.0f}{first:>15.0f}{of_plain:>17.2f}{of_bound:>21.2f}"
            print(f"{name:12}{way:>10}{rates}", flush=True)
            result[f"{name} {way}"] = {"images_per_second": rate, "first_step": first}
    return result


def passes_alone(engine: Engine, views: list[Tensor]) -> None:
    """Run only the method's networks, forward and backward, and its optimiser."""
    method: Method = engine.trainer.method
    engine.trainer.optimizer.zero_grad(set_to_none=True)
    if isinstance(method, MoCoV2):
        outputs = [method.encoder(views[0])]
        method.encode_keys(views[1])
    elif isinstance(method, BYOL):
        outputs = [method.predictor(method.encoder(view)) for view in views]
        with torch.no_grad():
            for view in views:
                method.target(view)
    elif len(views) == 1:
        outputs = [method.encoder(turn(views[0])[0])]
    else:
        outputs = [method.encoder(torch.cat(views))]
    sum(output.sum() for output in outputs).backward()
    engine.trainer.optimizer.step()


def measure_cpu(folder: Path) -> dict[str, Any]:
    """Print and return the share of a step outside the networks."""
    device = torch.device("cpu")
    shard = make_shard(folder / "shard", 256, 256)
    print(f"CPU, {torch.get_num_threads()} threads, views of 224 pixels, batch 16, fp32")
    print(f"{'':12}{'images/s':>10}{'outside the networks':>24}")
    result: dict[str, Any] = {"device": "cpu", "threads": torch.get_num_threads()}
    for method in METHODS:
        recipe = make_recipe("cxr", method, batch_size=16, epochs=100)
        engine = engine_of(recipe, shard, device, compiled=False)
        steps = engine.batches.steps(0, engine.trainer.steps)
        views = engine.trainer.views(next(steps)[0])
        whole, alone = [], []
        for number in range(CPU_ROUNDS + 1):
            start = time.perf_counter()
            engine.trainer.take_step(next(steps))
            between = time.perf_counter()
            passes_alone(engine, views)
            if number:  # the first round allocates
                whole.append(between - start)
                alone.append(time.perf_counter() - between)
        steps.close()
        shares = [1 - a / w for a, w in zip(alone, whole, strict=True)]
        share = 1 - statistics.median(alone) / statistics.median(whole)
        rate = recipe.images_per_step / statistics.median(whole)
        spread = f"({min(shares):+.1%} to {max(shares):+.1%})"
        print(f"{method:12}{rate:>10.1f}{share:>+12.1%} {spread}", flush=True)
        result[method] = {"images_per_second": rate, "outside": share}
    return result


def main() -> None:
    """Measure on the GPU if there is one, else on the CPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure = measure_gpu if torch.cuda.is_available() else measure_cpu
        result = measure(Path(temporary))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
