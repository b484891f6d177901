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

from common.augment import draw_views
from common.errors import BadInput
from common.resident import copy_to, fits
from common.seeds import generator
from common.shard import Entry, Shard
from pretrain.distributed import processes, rank
from pretrain.recipe import Recipe

AHEAD = 3
"""Steps that are prepared while the device computes."""

LARGEST_SHARE = 0.5
"""Largest share of a GPU's free memory for the images; the rest is for training."""


class Part(NamedTuple):
    """The images that one process computes at a time.

    Attributes:
        images: uint8, B x S x S.
        draws: float32, views x B x 10; see :func:`common.augment.draw_views`.
        patients: int64, B; see :func:`patient_numbers`.
    """

    images: Tensor
    draws: Tensor
    patients: Tensor


class Batches:
    """The batches of a run, on the device.

    Args:
        shard: N images.
        recipe: Settings of the pretraining.
        device: Device of the batches.
        resident: Whether to keep all images on the device; default: if it is a GPU and they fit.

    Raises:
        BadInput: There are too few images for a batch, they are smaller than a view, or the batch
            cannot be split between the processes.
    """

    def __init__(
        self, shard: Shard, recipe: Recipe, device: torch.device, resident: bool | None = None
    ) -> None:
        images = shard.images
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
        self._patients = patient_numbers(shard.entries)
        self._recipe = recipe
        self._device = device
        try:
            self._part = recipe.part(processes())
        except ValueError as error:
            raise BadInput(str(error)) from None
        self._order = -1, np.arange(len(images))
        if resident is None:
            resident = device.type == "cuda" and fits(images.nbytes, device, LARGEST_SHARE)
        self.resident = resident
        if resident:
            self._all = copy_to(images, device)

    def steps(self, first: int, last: int) -> Generator[list[Part]]:
        """Yield the parts of each step from ``first`` up to but not including ``last``."""
        with ThreadPoolExecutor(1, "batches") as thread:
            ready: deque[Future[list[Part]]] = deque()
            try:
                for step in range(first, last + AHEAD):
                    if step < last:
                        ready.append(thread.submit(self._make, step))
                    if step >= first + AHEAD:
                        yield [self._place(part) for part in ready.popleft().result()]
            finally:
                thread.shutdown(cancel_futures=True)

    def _make(self, step: int) -> list[Part]:
        """Return the parts on the host; if resident, with int64 indices instead of images."""
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
            arrays = source, draws[:, own], self._patients[chosen[own]]
            parts.append(Part(*map(self._pinned, arrays)))
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

    def _place(self, part: Part) -> Part:
        source, draws, patients = (t.to(self._device, non_blocking=True) for t in part)
        return Part(self._all[source] if self.resident else source, draws, patients)


def patient_numbers(entries: list[Entry]) -> npt.NDArray[np.int64]:
    """Number the patients of films from 0: int64, N; a film without a patient is its own."""
    names = [entry.patient or f"image {entry.image}" for entry in entries]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)
