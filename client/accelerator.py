"""An accelerator's memory, which several clients on a machine share."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch


def give_memory_back(device: torch.device) -> None:
    """Give back what torch keeps of an accelerator's memory for later; others share it."""
    if device.type != "cpu":
        with suppress(torch.AcceleratorError):  # a broken one says so when it is used again
            torch.cuda.empty_cache()


@contextmanager
def sharing(device: torch.device) -> Iterator[None]:
    """Give back an accelerator's memory after the block, but not after an error, which holds it."""
    yield
    give_memory_back(device)
