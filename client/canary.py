"""A canary: training on a few films, to see that a round would work; nothing of it is kept."""

import resource

import numpy as np
import numpy.typing as npt
import torch

from common.seeds import generator


def few_of(indices: npt.NDArray[np.intp], count: int, seed: int, site: str) -> npt.NDArray[np.intp]:
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


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were in use so far: of an accelerator, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
