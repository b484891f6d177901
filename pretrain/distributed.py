"""Several processes, one for each GPU, as ``torchrun`` starts them; alone it costs nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import FunctionCtx
from torch.distributed import is_torchelastic_launched as torchelastic_launched

from common.errors import BadInput, FedCXRError

PATIENCE = timedelta(hours=1)
"""How long a process waits for the others, who may be waiting for the first one's k-NN."""


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """Return how many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_device(requested: str) -> str:
    """Return the device that this process is to use, before any of them is touched.

    Args:
        requested: As the user gave it; ``auto`` and ``cuda`` become the GPU of this process.

    Raises:
        BadInput: All processes would share one GPU.
    """
    if not torchelastic_launched() or requested == "cpu":
        return requested
    if requested == "auto" and not torch.cuda.is_available():
        return "cpu"
    if requested not in ("auto", "cuda"):
        raise BadInput(
            f"--device {requested}: with torchrun each process has its own; give cuda or cpu"
        )
    return f"cuda:{os.environ['LOCAL_RANK']}"


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that ``torchrun`` started, if it did.

    Args:
        device: What this process computes on; a GPU has to be torch's current one.
    """
    if not torchelastic_launched():
        yield
        return
    gpu = device if device.type == "cuda" else None
    backend = "gloo" if gpu is None else "nccl"
    dist.init_process_group(backend, timeout=PATIENCE, device_id=gpu)
    yield
    # Not after an error: NCCL would wait for processes that wait for this one.
    dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: FunctionCtx, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(processes())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        # Each process's loss depends on all parts: their gradients add up.
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(processes())[rank()]


def gather(own: Tensor) -> Tensor:
    """Return the processes' tensors one after the other; gradients flow back to each.

    With losses that are means over each process's own rows, and gradients averaged over the
    processes as DistributedDataParallel does, the result is the gradient of the mean of all rows.

    Args:
        own: N x ..., of the same shape in every process.

    Returns:
        (processes x N) x ...
    """
    if processes() == 1:
        return own
    return _Gather.apply(own)  # type: ignore[no-any-return]


def own_rows(gathered: Tensor) -> Tensor:
    """Return the part of a gathered tensor that came from this process."""
    return gathered.chunk(processes())[rank()]


def mean_over_processes(values: Tensor) -> Tensor:
    """Return the elementwise mean of a tensor over the processes, without gradient."""
    if processes() > 1:
        dist.all_reduce(values)
        values /= processes()
    return values


def fail_together(error: FedCXRError | None, device: torch.device) -> None:
    """Raise in all processes if the first one has an error; every one has to call it.

    Args:
        error: The first process's; the others give None.
        device: Of this process.
    """
    if not first_says(error is None, device):
        raise error or BadInput("the first process has given up")


def first_says(value: bool, device: torch.device) -> bool:
    """Return what the first process says, in all of them."""
    if processes() == 1:
        return value
    answer = torch.tensor([value], dtype=torch.uint8, device=device)
    dist.broadcast(answer, src=0)
    return bool(answer.item())
