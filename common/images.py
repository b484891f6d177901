"""Batches of radiographs: cropping and transfer to the device.

The paper resizes to 256 pixels and crops 224; other sizes keep this ratio of 7/8.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.shard import Bytes, Shard

Offsets = npt.NDArray[np.int64]
"""int64, N x 2: top and left of a crop in each image, in pixels."""

CROP = 7 / 8
"""Side of a crop, as a share of the image's."""


def crop_size(size: int) -> int:
    """Return the side of a crop, in pixels, for images of ``size`` pixels: 224 for 256."""
    return int(size * CROP)


def draw_offsets(n: int, size: int, rng: np.random.Generator) -> Offsets:
    """Draw a random crop of each of n images of ``size`` pixels."""
    return rng.integers(0, size - crop_size(size) + 1, (n, 2))


def crops_at(images: Bytes, offsets: Offsets) -> Bytes:
    """Return a crop of every image: uint8, from N x S x S to N x C x C."""
    crop = crop_size(images.shape[1])
    crops = np.empty((len(images), crop, crop), np.uint8)
    for i, (top, left) in enumerate(offsets):
        crops[i] = images[i, top : top + crop, left : left + crop]
    return crops


def crops_of_resident(images: Tensor, chosen: Tensor, offsets: Tensor) -> Tensor:
    """Return what :func:`crops_at` returns, of some of the images in a device's memory.

    Args:
        images: uint8, M x S x S.
        chosen: int64, N: indices of images; all arguments are on one device.
        offsets: int64, N x 2.
    """
    inside = torch.arange(crop_size(images.shape[1]), device=images.device)
    rows, columns = offsets[:, :1] + inside, offsets[:, 1:] + inside
    return images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]


def random_crops(images: Bytes, rng: np.random.Generator) -> Bytes:
    """Return a random crop of every image, drawn for each image separately."""
    return crops_at(images, draw_offsets(len(images), images.shape[1], rng))


def centre_crops(images: Bytes) -> Bytes:
    """Return the central crop of every image: uint8, from N x S x S to N x C x C."""
    cut = _centre(images.shape[1])
    return np.ascontiguousarray(images[:, cut, cut])


def centre_crops_of(shard: Shard, chosen: npt.NDArray[np.intp], device: torch.device) -> Tensor:
    """Return the central crops of some of a shard's images: uint8, N x C x C, on the device."""
    if shard.resident is None:
        return to_device(centre_crops(shard.images[chosen]), device)
    cut = _centre(shard.manifest.size)
    return shard.resident[:, cut, cut][to_device(chosen, device)]


def _centre(size: int) -> slice:
    crop = crop_size(size)
    start = (size - crop) // 2
    return slice(start, start + crop)


def to_device(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """Return an array as a tensor on the device; a GPU is not waited for."""
    return pinned(torch.from_numpy(array), device).to(device, non_blocking=True)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor whose copy to the device does not hold up the host."""
    return tensor.pin_memory() if device.type == "cuda" else tensor
