"""A canary: training on a few films, to see that a round would work; nothing of it is kept."""

import math
import resource

import numpy as np
import torch

from client.examples import Indices, trainable
from client.policy import Policy
from common.protocol import Instruction
from common.seeds import generator
from common.shard import Shard


def few_of(indices: Indices, count: int, seed: int, site: str) -> Indices:
    """Return so many of a hospital's training images, ascending; all if there are fewer.

    The same at every canary of a run, so that repeating it tells nothing of other films.

    Args:
        indices: The images that a round would train on.
        count: How many.
        seed: The run's seed.
        site: The hospital's name.
    """
    order = generator(seed, "canary", site=site).permutation(len(indices))
    return np.sort(indices[order[:count]])


def few_to_train_on(
    shard: Shard,
    chosen: Indices,
    batches: int,
    instruction: Instruction,
    policy: Policy,
    site: str,
) -> tuple[Shard, Indices]:
    """Return the shard with the labels that a canary may train on, and the images with any.

    A few batches of images, but no fewer images than the site tells of together.

    Args:
        shard: A labelled one.
        chosen: The images that a round would train on.
        batches: How many the server asks for.
        instruction: The canary's.
        policy: The site's.
        site: The hospital's name.
    """
    size = instruction.training.batch_size
    batches = max(batches, math.ceil(policy.min_group / size))
    few = few_of(chosen, batches * size, instruction.seed, site)
    return trainable(shard, few, instruction.training, policy)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were in use so far: of an accelerator, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
