"""An accelerator's memory, which several clients on a machine share: films in it, and turns."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from common.resident import copy_to, fits, give_memory_back
from common.shard import Bytes

LARGEST_SHARE = 0.25
"""Largest share of a GPU's free memory for a hospital's films; the rest is for training."""


class ResidentFilms:
    """A hospital's films in its GPU's memory, from its first turn on, if they fit.

    Args:
        images: uint8, N x S x S.
    """

    def __init__(self, images: Bytes) -> None:
        self._images = images
        self._copy: Tensor | None = None
        self._wanted = True

    def on(self, device: torch.device) -> Tensor | None:
        """Return them in a device's memory; None: they are not there."""
        if device.type != "cuda" or not self._wanted:
            return None
        if self._copy is None and fits(self._images.nbytes, device, LARGEST_SHARE):
            self._copy = copy_to(self._images, device)
        return self._copy

    def give_up(self) -> None:
        """Leave the memory to the training for good."""
        self._copy, self._wanted = None, False


@contextmanager
def sharing(device: torch.device) -> Iterator[None]:
    """Give back an accelerator's memory after the block, but not after an error, which holds it."""
    yield
    give_memory_back(device)
