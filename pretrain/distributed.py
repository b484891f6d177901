"""Several processes, one for each GPU, as ``torchrun`` starts them; alone it costs nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import FunctionCtx


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """Return how many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` started, if it did.

    Args:
        device: What to compute on; ``cuda`` becomes the GPU of this process.

    Yields:
        The device of this process.
    """
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
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
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total.chunk(processes())[rank()]


def wait_for_all() -> None:
    """Return when all processes have come here."""
    if processes() > 1:
        dist.barrier()


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


def first_says(value: bool, device: torch.device) -> bool:
    """Return what the first process says, in all of them."""
    if processes() == 1:
        return value
    answer = torch.tensor([value], dtype=torch.uint8, device=device)
    dist.broadcast(answer, src=0)
    return bool(answer.item())
