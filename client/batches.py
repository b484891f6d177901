"""Batches of local training: order, crops, augmentation and mixup, drawn from one generator."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.augment import draw_views, make_view
from common.images import crop_size, random_crops, to_device
from common.model import normalised, to_input
from common.options import Augment, Training
from common.shard import Bytes, Shard
from common.views import Views


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


def batches(
    shard: Shard,
    indices: npt.NDArray[np.intp],
    training: Training,
    rng: np.random.Generator,
    device: torch.device,
) -> Iterator[Batch]:
    """Yield one shuffled epoch of batches.

    The epoch is cut into batches of nearly equal size, at most ``training.batch_size``: a last
    batch of a single image would leave BatchNorm nothing to average over.
    """
    labels = shard.labelled()
    count = math.ceil(len(indices) / training.batch_size)
    for chosen in np.array_split(rng.permutation(indices), count):
        images = shard.images[chosen]
        if training.augment == "none":
            inputs = to_input(to_device(random_crops(images, rng), device))
        else:
            inputs = normalised(augmented(images, training.augment, rng, device))
        batch = Batch(inputs, to_device(labels[chosen], device))
        yield mixed(batch, training.mixup, rng) if training.mixup else batch


def augmented(
    images: Bytes, augment: Augment, rng: np.random.Generator, device: torch.device
) -> Tensor:
    """Return a random crop of every image, turned, changed in intensity and perhaps mirrored.

    Args:
        images: uint8, N x S x S.
        augment: How.
        rng: Draws the same numbers whatever ``augment`` is.
        device: Where to compute.

    Returns:
        float32 in [0, 1], N x C x C, where C is :func:`crop_size` of S.
    """
    n, size, _ = images.shape
    out = crop_size(size)
    views = light_views(augment, out / size)
    draws = torch.from_numpy(draw_views(views, n, size, out, rng)).to(device)
    return make_view(to_device(images, device), draws, out, views)


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


def mixed(batch: Batch, alpha: float, rng: np.random.Generator) -> Batch:
    """Return a batch with another film of it mixed into each, all in the same proportion.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018: the share is drawn from
    Beta(alpha, alpha). The labels are not mixed but kept apart, since some may be unknown.

    Args:
        batch: B films.
        alpha: Above 0.
        rng: Draws the share, then the partners.
    """
    share = float(rng.beta(alpha, alpha))
    partners = torch.from_numpy(rng.permutation(len(batch.labels))).to(batch.labels.device)
    inputs = share * batch.inputs + (1 - share) * batch.inputs[partners]
    return Batch(inputs, batch.labels, batch.labels[partners], share)
