"""Batches of local training: order, crops, augmentation and mixup, drawn from one generator."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.augment import draw_views, make_view
from common.images import crop_size, crops_at, crops_of_resident, draw_offsets, pinned
from common.model import normalised, to_input
from common.options import Augment, Training
from common.shard import Shard
from common.views import Views

T = TypeVar("T")


class Batch(NamedTuple):
    """What a step trains on.

    Attributes:
        inputs: Of the model, float32, B x 3 x C x C.
        labels: uint8, B x 14: 0, 1 or UNKNOWN.
        others: Labels of the films that are mixed in; None: none are.
        share: Of each film, in [0, 1]; the other film has the rest.
    """

    inputs: Tensor
    labels: Tensor
    others: Tensor | None = None
    share: float = 1.0


class Drawn(NamedTuple):
    """A batch as the host draws it; all that makes its inputs is left to the device.

    Attributes:
        films: Indices of a shard's resident images, int64, B; else uint8, B x S x S, or B x C x C
            if they are not augmented and so already cropped.
        draws: float32, B x 10, see :func:`common.augment.draw_views`; int64, B x 2, offsets of
            crops, if films are not augmented.
        labels: uint8, B x 14.
        partners: int64, B: the film that is mixed into each; itself without mixup.
    """

    films: Tensor
    draws: Tensor
    labels: Tensor
    partners: Tensor


def batches(
    shard: Shard,
    indices: npt.NDArray[np.intp],
    training: Training,
    rng: np.random.Generator,
    device: torch.device,
) -> Iterator[Batch]:
    """Yield one shuffled epoch of batches.

    The epoch is cut into batches of nearly equal size, at most ``training.batch_size``: a last
    batch of a single image would leave BatchNorm nothing to average over. On a GPU a thread
    prepares the next batch, and nothing waits for the device.

    Args:
        shard: Its images are read from disk, or from the device if they are resident there.
        indices: Of the images of the epoch.
        training: Settings.
        rng: Nobody else may draw from it until the epoch is over.
        device: Where the batches are to be.
    """
    epoch = drawn(shard, indices, training, rng)
    if device.type == "cuda":
        epoch = one_ahead((Drawn(*(pinned(t, device) for t in each)), by) for each, by in epoch)
    for each, share in epoch:
        films, draws, labels, partners = (t.to(device, non_blocking=True) for t in each)
        inputs = inputs_of(shard, films, draws, training.augment)
        # As the model's weights lie; a convolution would otherwise copy it, forward and backward.
        batch = Batch(inputs.contiguous(memory_format=torch.channels_last), labels)
        yield mixed(batch, share, partners) if training.mixup else batch


def drawn(
    shard: Shard, indices: npt.NDArray[np.intp], training: Training, rng: np.random.Generator
) -> Iterator[tuple[Drawn, float]]:
    """Yield an epoch's batches as they are drawn, each with the share of its mixup."""
    count = math.ceil(len(indices) / training.batch_size)
    for chosen in np.array_split(rng.permutation(indices), count):
        each, share = draw(shard, chosen, training.augment, rng), 1.0
        if training.mixup:
            share = float(rng.beta(training.mixup, training.mixup))
            each = each._replace(partners=torch.from_numpy(rng.permutation(len(chosen))))
        yield each, share


def draw(
    shard: Shard, chosen: npt.NDArray[np.intp], augment: Augment, rng: np.random.Generator
) -> Drawn:
    """Return a batch of chosen images without mixup, as it is drawn."""
    n, size = len(chosen), shard.manifest.size
    films: npt.NDArray[Any] = chosen if shard.resident is not None else shard.images[chosen]
    draws: npt.NDArray[Any]
    if augment == "none":
        draws = draw_offsets(n, size, rng)
        films = films if shard.resident is not None else crops_at(films, draws)
    else:
        views = light_views(augment, crop_size(size) / size)
        draws = draw_views(views, n, size, crop_size(size), rng)
    parts = films, draws, shard.labelled()[chosen], np.arange(n)
    return Drawn(*map(torch.from_numpy, parts))


def one_ahead(source: Iterator[T]) -> Iterator[T]:
    """Yield what an iterator yields; a thread fetches the next one meanwhile."""
    with ThreadPoolExecutor(1, "batches") as thread:
        coming = thread.submit(next, source, None)
        while (one := coming.result()) is not None:
            coming = thread.submit(next, source, None)
            yield one


def inputs_of(shard: Shard, films: Tensor, draws: Tensor, augment: Augment) -> Tensor:
    """Return a batch's inputs, float32, B x 3 x C x C, from what was drawn; see :class:`Drawn`."""
    if augment == "none":
        if shard.resident is not None:
            films = crops_of_resident(shard.resident, films, draws)
        return to_input(films)
    if shard.resident is not None:
        films = shard.resident[films]
    return normalised(augmented(films, draws, augment))


def augmented(images: Tensor, draws: Tensor, augment: Augment) -> Tensor:
    """Return a random crop of every image, turned, changed in intensity and perhaps mirrored.

    Args:
        images: uint8, N x S x S.
        draws: float32, N x 10, see :func:`common.augment.draw_views`.
        augment: How.

    Returns:
        float32 in [0, 1], N x C x C, where C is :func:`crop_size` of S.
    """
    size = images.shape[-1]
    out = crop_size(size)
    return make_view(images, draws, out, light_views(augment, out / size))


def light_views(augment: Augment, side: float) -> Views:
    """Return the settings of the light augmentation.

    The angle is that of MoCo-CXR (Sowrirajan et al., MIDL 2021); the rest is this project's choice.

    Args:
        augment: Whether films are mirrored too.
        side: Of the crop, as a share of the image's.
    """
    return Views(
        crop_scale=(side**2, side**2),
        flip=0.5 if augment == "light" else 0,
        rotate=10,
        jitter=1,
        brightness=0.1,
        contrast=0.2,
    )


def mixed(batch: Batch, share: float, partners: Tensor) -> Batch:
    """Return a batch with another film of it mixed into each, all in the same proportion.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018: the share is drawn from
    Beta(alpha, alpha). The labels are not mixed but kept apart, since some may be unknown.

    Args:
        batch: B films.
        share: Of each film; its partner has the rest.
        partners: int64, B: a permutation of the batch.
    """
    inputs = share * batch.inputs + (1 - share) * batch.inputs[partners]
    return Batch(inputs, batch.labels, batch.labels[partners], share)
