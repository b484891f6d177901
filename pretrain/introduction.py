"""Logs the recipe before the first step, with warnings of unwise settings."""

import logging
from typing import Any

import torch

from common.model import is_fast_in_bf16
from common.shard import Shard
from pretrain.recipe import BYOLSettings, MethodName, MoCoSettings, Recipe

log = logging.getLogger(__name__)

FEW_STEPS = 3000
"""With fewer, the presets' learning rates and slow encoders change too little."""

SMALL_BATCH, SMALL_LR = 64, 2.0
SMALL_EMA: dict[MethodName, float] = {"mocov2": 0.99, "byol": 0.96}
"""What worked on 1,480 films, in 900 to 2,800 steps: benchmarks/pretrain_evidence.md."""


def introduce(recipe: Recipe, shard: Shard, steps: int, device: torch.device) -> None:
    """Log the whole recipe and warn of unwise settings.

    Args:
        recipe: All settings that decide the result.
        shard: Images to pretrain on.
        steps: Steps of the whole training.
        device: Device to compute on.
    """
    size = shard.manifest.size
    log.info(
        "%s images of %s, %d x %d pixels", f"{len(shard):,}", shard.manifest.source, size, size
    )
    if shard.labels is not None:
        log.info("the shard's labels are ignored")
    for name, value in recipe.model_dump().items():
        for item in value if isinstance(value, tuple) else [value]:
            log.info("  %-12s %s", name, _format(item))
    if isinstance(recipe.method, MoCoSettings):
        smaller = largest_queue(len(shard), recipe.batch_size)
        if recipe.method.queue > smaller:
            log.warning(
                "warning: the queue holds %s keys, more than a quarter of the %s images: the loss "
                "rises until the queue is full, and its keys are old; give --queue %d",
                f"{recipe.method.queue:,}",
                f"{len(shard):,}",
                smaller,
            )
    options = options_for_few_steps(recipe)
    if steps < FEW_STEPS and options:
        log.warning(
            "warning: %s steps are few for these settings; give %s, which worked on few films, "
            "or more --epochs",
            f"{steps:,}",
            options,
        )
    if recipe.precision == "bf16" and not is_fast_in_bf16(device):
        log.warning(
            "warning: this %s has no instructions for bf16 and is slower with it; omit --precision",
            "CPU" if device.type == "cpu" else "GPU",
        )
    rotations = ", each in 4 rotations" if recipe.copies > 1 else ""
    log.info(
        "%d images per step%s, %s steps on %s, learning rate up to %g",
        recipe.images_per_step,
        rotations,
        f"{steps:,}",
        device,
        recipe.lr,
    )


def largest_queue(images: int, batch: int) -> int:
    """Return the largest queue of whole batches, at least one, in a quarter of the images."""
    return batch * max(1, images // 4 // batch)


def options_for_few_steps(recipe: Recipe) -> str:
    """Return the options with which LARS learns in few steps; empty if the recipe has them."""
    if recipe.optimizer.name != "lars":
        return ""
    found = []
    if recipe.batch_size > SMALL_BATCH:
        found.append(f"--batch-size {SMALL_BATCH}")
    if recipe.optimizer.lr < SMALL_LR:
        found.append(f"--lr {SMALL_LR:g}")
    if isinstance(recipe.method, MoCoSettings | BYOLSettings):
        ema = SMALL_EMA[recipe.method.name]
        if recipe.method.ema > ema:
            found.append(f"--ema {ema}")
    return " ".join(found)


def _format(value: Any) -> str:
    """Format a setting for the log."""
    if isinstance(value, dict):
        return " ".join(f"{name}={_format(item)}" for name, item in value.items())
    if isinstance(value, tuple):
        return "..".join(map(_format, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
