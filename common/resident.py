"""A GPU's memory: images in it, where they fit, and what is left of it for others."""

from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from common.shard import Bytes

CHUNK = 1024
"""Images copied to a GPU at a time."""


def fits(needed: int, device: torch.device, share: float) -> bool:
    """Return whether ``needed`` bytes are at most a share of a GPU's free memory."""
    free, _ = torch.cuda.mem_get_info(device)
    return needed <= share * free


def copy_to(images: Bytes, device: torch.device) -> Tensor:
    """Return a copy of images in a device's memory: uint8, N x S x S."""
    copy = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), CHUNK):
        chunk = torch.from_numpy(np.array(images[start : start + CHUNK]))
        copy[start : start + CHUNK].copy_(chunk)
    return copy


def give_memory_back(device: torch.device) -> None:
    """Give back what torch keeps of an accelerator's memory for later; others share it."""
    if device.type != "cpu":
        with suppress(torch.AcceleratorError):  # a broken one says so when it is used again
            torch.cuda.empty_cache()
