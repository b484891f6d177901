"""Batches for pretraining: the images of each step, their order and their augmentation.

Everything is a function of (seed, step), so a resumed run needs only the step. It is drawn for the
whole batch and then split between the processes.
"""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.errors import BadInput
from common.seeds import generator
from common.shard import Bytes
from pretrain.augment import draw_views
from pretrain.distributed import processes, rank
from pretrain.recipe import Recipe

AHEAD = 3
"""Steps that are prepared while the device computes."""

LARGEST_SHARE = 0.5
"""Largest share of a GPU's free memory for the images; the rest is for training."""

CHUNK = 1024
"""Images copied to a GPU at a time."""


class Part(NamedTuple):
    """The images that one process computes at a time.

    Attributes:
        images: uint8, B x S x S.
        draws: float32, views x B x 10; see :func:`pretrain.augment.draw_views`.
    """

    images: Tensor
    draws: Tensor


class Batches:
    """The batches of a run, on the device.

    Args:
        images: uint8, N x S x S, memory-mapped.
        recipe: Settings of the pretraining.
        device: Device of the batches.
        resident: Whether to keep all images on the device; default: if it is a GPU and they fit.

    Raises:
        BadInput: There are too few images for a batch, they are smaller than a view, or the batch
            cannot be split between the processes.
    """

    def __init__(
        self, images: Bytes, recipe: Recipe, device: torch.device, resident: bool | None = None
    ) -> None:
        self.steps_per_epoch = len(images) // recipe.images_per_step
        if not self.steps_per_epoch:
            raise BadInput(
                f"--batch-size {recipe.batch_size}: a step takes {recipe.images_per_step} images, "
                f"but the shard has {len(images)}; give a smaller batch or more images"
            )
        if recipe.image_size > images.shape[1]:
            raise BadInput(
                f"--image-size {recipe.image_size}: the shard's images are {images.shape[1]} "
                "pixels wide; give a smaller size, or make the shard again with a larger --size"
            )
        self._images = images
        self._recipe = recipe
        self._device = device
        try:
            self._part = recipe.part(processes())
        except ValueError as error:
            raise BadInput(str(error)) from None
        self._order = -1, np.arange(len(images))
        if resident is None:
            resident = device.type == "cuda" and fits(images.nbytes, device)
        self.resident = resident
        if resident:
            self._all = torch.empty(images.shape, dtype=torch.uint8, device=device)
            for start in range(0, len(images), CHUNK):
                chunk = torch.from_numpy(np.array(images[start : start + CHUNK]))
                self._all[start : start + CHUNK].copy_(chunk)

    def steps(self, first: int, last: int) -> Generator[list[Part]]:
        """Yield the parts of each step from ``first`` up to but not including ``last``."""
        with ThreadPoolExecutor(1, "batches") as thread:
            ready: deque[Future[list[tuple[Tensor, Tensor]]]] = deque()
            try:
                for step in range(first, last + AHEAD):
                    if step < last:
                        ready.append(thread.submit(self._make, step))
                    if step >= first + AHEAD:
                        yield [self._place(*part) for part in ready.popleft().result()]
            finally:
                thread.shutdown(cancel_futures=True)

    def _make(self, step: int) -> list[tuple[Tensor, Tensor]]:
        """Return each part's images, or their indices if resident, and draws, on the host."""
        recipe = self._recipe
        n, size = recipe.images_per_step, self._images.shape[1]
        chosen = self._chosen(step)
        draws = np.stack(
            [
                draw_views(
                    view, n, size, recipe.image_size, generator(recipe.seed, f"view {i}", step)
                )
                for i, view in enumerate(recipe.views)
            ]
        )
        parts = []
        for number in range(recipe.accumulate):
            start = (number * processes() + rank()) * self._part
            own = slice(start, start + self._part)
            source = chosen[own] if self.resident else self._images[chosen[own]]
            parts.append((self._pinned(source), self._pinned(draws[:, own])))
        return parts

    def _chosen(self, step: int) -> npt.NDArray[np.intp]:
        """Return the indices of a step's images; an epoch's incomplete last batch is dropped."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            rng = generator(self._recipe.seed, "order", epoch)
            self._order = epoch, rng.permutation(len(self._images))
        n = self._recipe.images_per_step
        return self._order[1][position * n : (position + 1) * n]

    def _pinned(self, array: npt.NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _place(self, source: Tensor, draws: Tensor) -> Part:
        source = source.to(self._device, non_blocking=True)
        images = self._all[source] if self.resident else source
        return Part(images, draws.to(self._device, non_blocking=True))


def fits(needed: int, device: torch.device) -> bool:
    """Return whether ``needed`` bytes leave enough of a GPU's memory for training."""
    free, _ = torch.cuda.mem_get_info(device)
    return needed <= LARGEST_SHARE * free
