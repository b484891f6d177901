"""The films that a hospital trains on: enough of them, and with labels that may be used."""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from client.policy import Policy
from common.errors import BadInput
from common.findings import UNKNOWN
from common.images import crop_size
from common.model import last_side
from common.options import Training
from common.protocol import Greeting, Instruction
from common.seeds import generator
from common.shard import Shard

Indices = npt.NDArray[np.intp]


def split_of(shard: Shard, greeting: Greeting, policy: Policy) -> tuple[Indices, Indices]:
    """Return the images for training and for validation in a run, if they are enough to take part.

    Args:
        shard: A labelled one.
        greeting: Of the run.
        policy: The site's.

    Raises:
        BadInput: No image is left for training, too few to be told of, or too few to train on.
    """
    if (shard.labelled() == UNKNOWN).all():
        raise BadInput(
            f"{shard.path}: all its labels are unknown, so that there is nothing to "
            "train; give a shard with labels"
        )
    training, validation = shard.split(greeting.seed)
    if not len(training):
        raise BadInput(
            f"{shard.path}: no image is left for training, since all its patients with "
            "labels are kept for validation; give a shard with more patients"
        )
    if len(training) < policy.min_group:
        raise BadInput(
            f"{shard.path}: {len(training)} images for training, fewer than min_group "
            f"{policy.min_group} of this site's policy; give a larger shard"
        )
    _check_batches(shard, len(training), greeting.training)
    return training, validation


LARGER_BATCH = "the server's operator has to give a larger --batch-size"


def _check_batches(shard: Shard, images: int, training: Training) -> None:
    """Check that BatchNorm has more than one number to average over in every batch.

    With noise it averages over none: its statistics stay as they are.

    Raises:
        BadInput: It has not.
    """
    images = math.ceil(training.label_fraction * images)
    smallest = images // math.ceil(images / training.batch_size)
    size = shard.manifest.size
    trains = training.mode == "finetune" and training.dp == "none"
    if trains and smallest == 1 and last_side(crop_size(size)) == 1:
        raise BadInput(
            f"{shard.path}: a batch would be a single image ({images} for training, "
            f"--batch-size {training.batch_size} of the server), and at {size} pixels "
            "BatchNorm cannot train on one; "
            + ("give a shard with more images" if images == 1 else LARGER_BATCH)
        )


def labelled_fraction(indices: Indices, fraction: float, seed: int, site: str) -> Indices:
    """Return the training images whose labels may be used, at least one, the same every round.

    A smaller fraction is a subset of a larger one.

    Args:
        indices: A hospital's training images.
        fraction: In (0, 1].
        seed: The run's seed.
        site: The hospital's name.
    """
    order = generator(seed, "label fraction", site=site).permutation(len(indices))
    return np.sort(indices[order[: math.ceil(fraction * len(indices))]])


def to_train_on(
    shard: Shard, training: Indices, instruction: Instruction, policy: Policy, site: str
) -> tuple[Shard, Indices]:
    """Return the shard with the labels that may be trained on, and the images with any.

    Args:
        shard: A labelled one.
        training: The images of it that are for training.
        instruction: Whose share of the labels is used.
        policy: The site's.
        site: The hospital's name.
    """
    fraction = instruction.training.label_fraction
    chosen = labelled_fraction(training, fraction, instruction.seed, site)
    return trainable(shard, chosen, instruction.training, policy)


def trainable(
    shard: Shard, chosen: Indices, training: Training, policy: Policy
) -> tuple[Shard, Indices]:
    """Return the shard with the labels of some images that may be trained on, and those with any.

    With ``--dp sample`` these are all: the noise covers single films, and whether a finding is left
    out must not depend on one.

    Args:
        shard: A labelled one.
        chosen: The images.
        training: Settings.
        policy: The site's.
    """
    labels = shard.labelled().copy()
    if training.dp != "sample":
        labels[chosen] = policy.trainable(labels[chosen])
    known = (labels[chosen] != UNKNOWN).any(axis=1)
    return replace(shard, labels=labels), chosen[known]
