"""What a run says before its first step: the whole recipe, and what looks unwise in it."""

import logging
from typing import Any

import torch

from common.shard import Shard
from pretrain.networks import is_fast_in_bf16
from pretrain.recipe import MoCoSettings, Recipe

log = logging.getLogger(__name__)


def introduce(recipe: Recipe, shard: Shard, steps: int, device: torch.device) -> None:
    """Log the whole recipe, and what it comes to.

    Args:
        recipe: Decides the result.
        shard: Its images are pretrained on.
        steps: Of the whole training.
        device: What is computed on.
    """
    size = shard.manifest.size
    log.info(
        "%s images of %s, %d x %d pixels", f"{len(shard):,}", shard.manifest.source, size, size
    )
    if shard.labels is not None:
        log.info("the shard's labels are not looked at")
    for name, value in recipe.model_dump().items():
        for item in value if isinstance(value, tuple) else [value]:
            log.info("  %-12s %s", name, _words(item))
    if size > 2 * recipe.image_size:
        log.warning(
            "warning: views of %d pixels are taken from films of %d without smoothing, which makes "
            "fine structure noise; give a larger --image-size, or a smaller shard",
            recipe.image_size,
            size,
        )
    if isinstance(recipe.method, MoCoSettings) and recipe.method.queue >= len(shard):
        log.warning(
            "warning: the queue holds %d keys, but there are %d images: films become their own "
            "negatives; give a smaller --queue",
            recipe.method.queue,
            len(shard),
        )
    if recipe.precision == "bf16" and not is_fast_in_bf16(device):
        log.warning(
            "warning: this %s has no instructions for bf16 and is slower with it than without; "
            "leave --precision out",
            "CPU" if device.type == "cpu" else "GPU",
        )
    rotations = ", each in 4 rotations" if recipe.copies > 1 else ""
    log.info(
        "%d images a step%s, %s steps on %s, learning rate up to %g",
        recipe.images_per_step,
        rotations,
        f"{steps:,}",
        device,
        recipe.lr,
    )


def _words(value: Any) -> str:
    """Return a setting as a person would write it."""
    if isinstance(value, dict):
        return " ".join(f"{name}={_words(item)}" for name, item in value.items())
    if isinstance(value, tuple):
        return "..".join(map(_words, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
