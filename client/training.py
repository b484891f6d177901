"""Local training: a hospital's epochs over its own shard."""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from client.batches import Batch, batches
from client.cancellation import NEVER, Cancellation
from client.compiled import Forward
from client.local.base import LocalTraining
from client.loss import batch_loss, positive_weights
from client.private.training import train_privately
from common.findings import FINDINGS, UNKNOWN
from common.model import set_training_mode
from common.options import Precision, Training
from common.protocol import Instruction
from common.scores import LARGEST_LOSS
from common.secret_stream import SecretStream
from common.seeds import generator
from common.shard import Shard
from common.state import State


class Diverged(Exception):  # noqa: N818 - a result, not a fault
    """The training has diverged; the message names the learning rate and nothing else."""


def train_epoch(
    model: Forward,
    optimizer: torch.optim.Optimizer,
    epoch: Iterable[Batch],
    precision: Precision = "fp32",
    cancellation: Cancellation = NEVER,
    weights: Tensor | None = None,
    before_step: Callable[[], object] = lambda: None,
) -> float:
    """Take one optimiser step a batch and return the mean loss over the known labels.

    The model's training mode is the caller's choice. No step waits for a GPU: the loss stays there
    until the end. An image without a known label has no gradient, but would move BatchNorm's
    statistics, and a batch of such images would be a step by momentum alone: :meth:`Shard.split`
    leaves them out.

    Args:
        model: Is trained in place; or its compiled forward pass.
        optimizer: Of its parameters.
        epoch: Batches, on the model's device.
        precision: Of the network.
        cancellation: Checked before each step.
        weights: Of positives; see :func:`client.loss.positive_weights`.
        before_step: Called when the gradients of a step are there; may change them.

    Raises:
        GivenUp: The result is of no use any more.
    """
    device = optimizer.param_groups[0]["params"][0].device
    total = torch.zeros((), device=device)
    known = torch.zeros((), dtype=torch.int64, device=device)
    for batch in epoch:
        cancellation.check()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(batch.inputs)
        loss = batch_loss(logits.float(), batch, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        before_step()
        optimizer.step()
        found = (batch.labels != UNKNOWN).sum()
        total += loss.detach() * (found / len(FINDINGS))
        known += found
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
    forward: Forward | None = None,
    secret: SecretStream | None = None,
) -> float | None:
    """Train the model in place as the instruction says; return the mean loss.

    All draws follow from (seed, round, hospital), and the optimiser is a new one, so that a
    repeated round gives the same weights; on a GPU but for the last bits, as cuDNN does not fix
    the order of its sums. A step's gradient is clipped, then corrected by ``local``, and SGD adds
    the weight decay.

    Args:
        model: The global one, on the device.
        shard: The hospital's.
        indices: Of the images to train on.
        instruction: What to do.
        site: The hospital's name.
        device: Where to compute.
        precision: Of the network.
        cancellation: Checked before each step.
        local: Corrects gradients; None: plain SGD.
        forward: The model's forward pass, compiled; None: the model as it is.
        secret: Draws films and noise with ``--dp sample``.

    Returns:
        None with ``--dp sample``: the loss would tell of films, and nothing here needs it.

    Raises:
        GivenUp: The result is of no use any more.
    """
    training = instruction.training
    parameters = set_training_mode(model, training.mode, statistics=training.dp == "none")
    named = {name: each for name, each in model.named_parameters() if each.requires_grad}
    optimizer = torch.optim.SGD(
        parameters,
        lr=training.lr,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        # One kernel for all weights. On a CPU it would save a hundredth of a step, and change bits.
        fused=device.type == "cuda",
    )
    weights = None
    if training.positive_weights:
        weights = positive_weights(shard.labelled()[indices]).to(device)

    def before_step() -> None:
        if training.clip_norm:
            clip_grad_norm_(parameters, training.clip_norm)
        if local is not None:
            local.correct(named)

    if training.dp == "sample":
        assert secret is not None  # noqa: S101 - such training is paid for, which gives it
        train_privately(
            model,
            named,
            optimizer,
            shard,
            indices,
            training,
            secret,
            device,
            precision,
            cancellation,
            before_step,
        )
        return None
    rng = generator(instruction.seed, "training", instruction.identity.round, site)
    losses = [
        train_epoch(
            forward or model,
            optimizer,
            batches(shard, indices, training, rng, device),
            precision,
            cancellation,
            weights,
            before_step,
        )
        for _ in range(training.local_epochs)
    ]
    return sum(losses) / len(losses)


def check_loss(loss: float | None, training: Training) -> None:
    """Check that a training has not diverged, as far as its loss is known.

    Raises:
        Diverged: The loss is not finite or beyond :data:`LARGEST_LOSS`.
    """
    if loss is not None and not loss <= LARGEST_LOSS:
        raise _diverged(training)


def check_weights(state: State, training: Training) -> None:
    """Check that a training has not diverged in its last step, of which no loss tells.

    Raises:
        Diverged: A weight is not finite.
    """
    if not all(np.isfinite(array).all() for array in state.values()):
        raise _diverged(training)


def _diverged(training: Training) -> Diverged:
    return Diverged(f"the training diverged at learning rate {training.lr:g}")
