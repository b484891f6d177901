"""Work in several processes of ``torchrun``, one per GPU; a single process has no overhead."""

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
"""How long a process waits for the others, which may wait for the first one's k-NN."""


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_device(requested: str) -> str:
    """Return the device of this process, without touching any device.

    Args:
        requested: The user's option; ``auto`` and ``cuda`` become the GPU of this process.

    Raises:
        BadInput: All processes would share one GPU.
    """
    if not torchelastic_launched() or requested == "cpu":
        return requested
    if requested == "auto" and not torch.cuda.is_available():
        return "cpu"
    if requested not in ("auto", "cuda"):
        raise BadInput(
            f"--device {requested}: with torchrun each process has its own GPU; give cuda or cpu"
        )
    return f"cuda:{os.environ['LOCAL_RANK']}"


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group, if ``torchrun`` started the process.

    Args:
        device: Device of this process; a GPU must be torch's current one.
    """
    if not torchelastic_launched():
        yield
        return
    gpu = device if device.type == "cuda" else None
    backend = "gloo" if gpu is None else "nccl"
    dist.init_process_group(backend, timeout=PATIENCE, device_id=gpu)
    yield
    # Not after an error: NCCL would deadlock with the other processes.
    dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: FunctionCtx, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(processes())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        # Each process's loss depends on all parts: sum the gradients.
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(processes())[rank()]


def gather(own: Tensor) -> Tensor:
    """Concatenate the tensors of all processes; gradients flow back to each.

    If each process's loss is the mean over its rows, and DistributedDataParallel averages the
    gradients, the result is the gradient of the mean over all rows.

    Args:
        own: N x ..., with the same shape in every process.

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
    """Raise in all processes if the first one has an error; every process must call it.

    Args:
        error: Error of the first process; None in the others.
        device: Device of this process.
    """
    if not first_says(error is None, device):
        raise error or BadInput("the first process failed")


def first_says(value: bool, device: torch.device) -> bool:
    """Return the first process's value in all processes."""
    if processes() == 1:
        return value
    answer = torch.tensor([value], dtype=torch.uint8, device=device)
    dist.broadcast(answer, src=0)
    return bool(answer.item())
