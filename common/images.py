"""Batches of radiographs: cropping and transfer to the device.

The paper resizes to 256 pixels and crops 224; other sizes keep this ratio of 7/8.
"""

import numpy as np
import torch
from torch import Tensor

from common.shard import Bytes

CROP = 7 / 8
"""Side of a crop, as a share of the image's."""


def crop_size(size: int) -> int:
    """Return the side of a crop, in pixels, for images of ``size`` pixels: 224 for 256."""
    return int(size * CROP)


def random_crops(images: Bytes, rng: np.random.Generator) -> Bytes:
    """Return a random crop of every image, drawn for each image separately.

    Args:
        images: uint8, N x S x S.
        rng: Random generator for N pairs of offsets.

    Returns:
        uint8, N x C x C, where C is :func:`crop_size` of S.
    """
    n, size, _ = images.shape
    crop = crop_size(size)
    offsets = rng.integers(0, size - crop + 1, (n, 2))
    crops = np.empty((n, crop, crop), np.uint8)
    for i, (top, left) in enumerate(offsets):
        crops[i] = images[i, top : top + crop, left : left + crop]
    return crops


def centre_crops(images: Bytes) -> Bytes:
    """Return the central crop of every image: uint8, from N x S x S to N x C x C."""
    size = images.shape[1]
    crop = crop_size(size)
    start = (size - crop) // 2
    return np.ascontiguousarray(images[:, start : start + crop, start : start + crop])


def to_device(array: Bytes, device: torch.device) -> Tensor:
    """Return a uint8 array as a tensor on the device."""
    return torch.from_numpy(array).to(device, non_blocking=True)
