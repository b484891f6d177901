"""What antialiased views cost, and whether they change what is learned.

``python -m benchmarks.pretrain_views --films DIR --lists DIR --out DIR`` prints

- the time of a batch of views, antialiased, as a ratio to views that are only interpolated;
- AUCs of a linear evaluation after short pretrainings on films of 256 pixels with views of 64, with
  either kind of views, and of random weights. The penalty is fixed. The last column is the time of
  the pretraining in seconds.

Times are of the CPU, of one thread (OMP_NUM_THREADS=1), so that other work on the machine matters
less. Timed rounds alternate between the two kinds; ratios are medians.
"""

import statistics
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.films import command_line, make_shards
from benchmarks.pretrain_evidence import backbone_of, evaluate, network_features
from common import augment
from common.shard import Shard
from common.views import Views
from pretrain import probe
from pretrain.engine import Engine
from pretrain.presets import make_recipe
from pretrain.recipe import PresetName

PRESETS: tuple[PresetName, ...] = ("cxr", "paper")
ROUNDS, BATCH, VIEW, EPOCHS, SEEDS = 25, 64, 64, 2, (0, 1)
SIZE = 74
"""Size of the films to evaluate on: their central crop has VIEW pixels."""

PENALTY = 1000.0
KINDS = ("antialiased", "interpolated")
MEASURES = ("auc", "within_auc", "inside_auc", "inside_within_auc")


def views_of(kind: str) -> AbstractContextManager[object]:
    """Return a context in which views are of this kind."""
    if kind == "antialiased":
        return nullcontext()
    return patch.object(augment, "_smoothed", lambda grey, *_: grey)


def seconds(images: Tensor, out: int, views: Views) -> dict[str, list[float]]:
    """Return the CPU seconds of each round, for both kinds of views."""
    draws = augment.draw_views(views, len(images), images.shape[1], out, np.random.default_rng(0))
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(ROUNDS + 1):
        for kind, times in found.items():
            with views_of(kind):
                start = time.process_time()
                augment.make_view(images, torch.from_numpy(draws), out, views)
            if number:  # the first round allocates
                times.append(time.process_time() - start)
    return found


def time_views() -> None:
    """Print the time of both kinds of views."""
    rng = np.random.default_rng(0)
    for preset in PRESETS:
        views = make_recipe(preset, "simclr").views[0]
        for size, out in ((96, 64), (256, 64), (256, 224)):
            images = torch.from_numpy(rng.integers(0, 256, (BATCH, size, size), dtype=np.uint8))
            new, old = seconds(images, out, views).values()
            ratios = [a / b for a, b in zip(new, old, strict=True)]
            print(
                f"{preset:6}{size:>4} to {out:<4}"
                f"{statistics.median(old) / BATCH * 1e3:>7.2f} to "
                f"{statistics.median(new) / BATCH * 1e3:.2f} ms an image, ratio "
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )


def pretrained(shard: Shard, seed: int, kind: str) -> tuple[nn.Module, float]:
    """Return the backbone after a short pretraining with SimCLR, and the CPU seconds it took."""
    recipe = make_recipe(
        "cxr",
        "simclr",
        batch_size=BATCH,
        image_size=VIEW,
        epochs=EPOCHS,
        seed=seed,
        lr=2,
        temperature=0.2,
        precision="bf16",
    )
    engine = Engine(recipe, shard, Path("unused.pt"), torch.device("cpu"), None)
    start = time.process_time()
    with views_of(kind):
        for parts in engine.batches.steps(0, engine.trainer.steps):
            engine.trainer.take_step(parts)
    backbone: nn.Module = engine.trainer.method.encoder.backbone
    return backbone, time.process_time() - start


def main() -> None:
    """Time the views, pretrain and evaluate."""
    arguments = command_line(__doc__.splitlines()[0]).parse_args()
    time_views()
    (large,), _ = make_shards(arguments.films, arguments.lists, 256, arguments.out / "large")
    (train,), test = make_shards(arguments.films, arguments.lists, SIZE, arguments.out / "small")
    print(f"{'':20}" + "".join(f"{name:>19}" for name in MEASURES))
    for seed in SEEDS:
        runs = {kind: pretrained(large.shard, seed, kind) for kind in KINDS}
        runs["random"] = backbone_of("random", seed), 0
        for kind, (backbone, took) in runs.items():
            with patch.object(probe, "PENALTIES", (PENALTY,)):
                run = evaluate(partial(network_features, backbone), train, test)
            line = "".join(f"{run[name]:>19.3f}" for name in MEASURES)
            print(f"{kind + f', seed {seed}':20}{line}{took:>6.0f}", flush=True)


if __name__ == "__main__":
    main()
