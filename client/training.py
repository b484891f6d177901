"""Local training: a hospital's epochs over its own shard."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from client.cancellation import NEVER, Cancellation
from client.local.base import LocalTraining
from common.evaluation import loss_of
from common.findings import FINDINGS, UNKNOWN
from common.images import random_crops, to_device
from common.model import set_training_mode, to_input
from common.options import Precision
from common.protocol import Instruction
from common.scores import LARGEST_LOSS
from common.seeds import generator
from common.shard import Shard


class Diverged(Exception):  # noqa: N818 - a result, not a fault
    """The training has diverged; the message names the learning rate and nothing else."""


def labelled_fraction(
    indices: npt.NDArray[np.intp], fraction: float, seed: int, site: str
) -> npt.NDArray[np.intp]:
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


def batches(
    shard: Shard,
    indices: npt.NDArray[np.intp],
    batch_size: int,
    rng: np.random.Generator,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one shuffled epoch of crops and labels.

    The epoch is cut into batches of nearly equal size, at most ``batch_size``: a last batch of a
    single image would leave BatchNorm nothing to average over.

    Yields:
        Model input, float32, B x 3 x C x C, and labels, uint8, B x 14: 0, 1 or UNKNOWN.
    """
    labels = shard.labelled()
    count = math.ceil(len(indices) / batch_size)
    for chosen in np.array_split(rng.permutation(indices), count):
        images = to_device(random_crops(shard.images[chosen], rng), device)
        yield to_input(images), to_device(labels[chosen], device)


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: Iterable[tuple[Tensor, Tensor]],
    precision: Precision = "fp32",
    cancellation: Cancellation = NEVER,
    local: LocalTraining | None = None,
) -> float:
    """Take one optimiser step a batch and return the mean loss over the known labels.

    The model's training mode is the caller's choice. The loss stays on the device until the end.
    An image without a known label has no gradient, but would move BatchNorm's statistics, and a
    batch of such images would be a step by momentum alone: :meth:`Shard.split` leaves them out.

    Args:
        model: To train.
        optimizer: Takes the steps.
        epoch: Inputs and labels of each batch.
        precision: Of the network.
        cancellation: Checked before each step.
        local: Corrects gradients before each step; None: they are as they are.

    Raises:
        GivenUp: The result is of no use any more.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = torch.zeros(())
    known = torch.zeros((), dtype=torch.int64)
    for inputs, labels in epoch:
        cancellation.check()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(inputs)
        loss = loss_of(logits.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        if local is not None:
            local.correct(parameters)
        optimizer.step()
        found = (labels != UNKNOWN).sum()
        total = total.to(loss.device) + loss.detach() * (found / len(FINDINGS))
        known = known.to(loss.device) + found
    return float(total) / (max(int(known), 1) / len(FINDINGS))


def train(
    model: nn.Module,
    shard: Shard,
    indices: npt.NDArray[np.intp],
    instruction: Instruction,
    site: str,
    device: torch.device,
    precision: Precision = "fp32",
    cancellation: Cancellation = NEVER,
    local: LocalTraining | None = None,
) -> float:
    """Train the model in place as the instruction says; return the mean loss.

    Order and crops follow from (seed, round, hospital), and the optimiser is a new one, so that a
    repeated round gives the same weights; on a GPU but for the last bits, as cuDNN does not fix
    the order of its sums.

    Raises:
        Diverged: The loss is not finite or beyond :data:`LARGEST_LOSS`.
        GivenUp: The result is of no use any more; checked before each step.
    """
    training = instruction.training
    parameters = set_training_mode(model, training.mode)
    optimizer = torch.optim.SGD(parameters, lr=training.lr, momentum=training.momentum)
    rng = generator(instruction.seed, "training", instruction.identity.round, site)
    losses = [
        train_epoch(
            model,
            optimizer,
            batches(shard, indices, training.batch_size, rng, device),
            precision,
            cancellation,
            local,
        )
        for _ in range(training.local_epochs)
    ]
    loss = sum(losses) / len(losses)
    if not loss <= LARGEST_LOSS:
        raise Diverged(f"the training diverged at learning rate {training.lr:g}")
    return loss
