"""Run by ``torchrun``: losses over two processes against the same over one.

The layer stands for an encoder; each process has half of the batch and half of the queue.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.nn.parallel import DistributedDataParallel

from pretrain.distributed import gather, own_rows, process_group, processes, rank
from pretrain.methods.mocov2 import info_nce
from pretrain.methods.simclr import nt_xent

BATCH, QUEUE, WIDTH, TEMPERATURE = 6, 8, 5, 0.2


def given(n: int, seed: int) -> Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))


def own(tensor: Tensor) -> Tensor:
    return tensor.chunk(processes())[rank()]


def layer() -> nn.Linear:
    made = nn.Linear(WIDTH, WIDTH)
    with torch.no_grad():
        made.weight.copy_(given(WIDTH, 9))
        made.bias.zero_()
    return made


def check(loss: Tensor, whole: nn.Linear, split: nn.Module, expected: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
    expected.backward()  # type: ignore[no-untyped-call]
    mean = gather(loss.detach().unsqueeze(0)).mean()
    torch.testing.assert_close(mean, expected.detach())
    for one, other in zip(split.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def check_moco() -> None:
    images, keys = given(BATCH, 0), normalize(given(BATCH, 1))
    queue = normalize(given(QUEUE, 2))
    # Keys of a query's patient are in its own process's share of the queue, and in the other's.
    patients, queue_patients = torch.arange(BATCH), torch.tensor([0, 5, 2, -1, 0, 4, 4, 9])
    numbers = own(patients), own(queue_patients)
    whole, split = layer(), DistributedDataParallel(layer())
    loss = info_nce(normalize(split(own(images))), own(keys), own(queue), *numbers, TEMPERATURE)
    query = normalize(whole(images))
    logits = torch.cat([(query * keys).sum(1, keepdim=True), query @ queue.T], 1) / TEMPERATURE
    logits[:, 1:][patients.unsqueeze(1) == queue_patients] = -torch.inf
    check(loss, whole, split, cross_entropy(logits, torch.zeros(BATCH, dtype=torch.int64)))


def check_simclr() -> None:
    first, second = given(BATCH, 3), given(BATCH, 4)
    whole, split = layer(), DistributedDataParallel(layer())
    one, other = normalize(split(torch.cat([own(first), own(second)]))).chunk(2)
    loss = nt_xent(one, other, TEMPERATURE)
    views = normalize(whole(torch.cat([first, second])))
    logits = (views @ views.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    check(loss, whole, split, cross_entropy(logits, torch.arange(2 * BATCH).roll(BATCH)))


def check_gather() -> None:
    everyone = gather(torch.full((2, 3), float(rank())))
    assert everyone[:, 0].tolist() == [0, 0, 1, 1]
    assert own_rows(everyone)[:, 0].tolist() == [rank()] * 2


if __name__ == "__main__":
    with process_group(torch.device("cpu")):
        assert processes() == 2
        check_gather()
        check_moco()
        check_simclr()
        print(f"process {rank()} agrees", flush=True)
