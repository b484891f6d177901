"""Local training under differential privacy of each film: DP-SGD.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, algorithm 1. In each step every
film is in with the same chance, B / N of a batch of B; the gradients of those that are, each
shortened to a bound, are added up; noise is added; and the whole is divided by B (by N, if there
are fewer films). Everything after that, momentum and weight decay too, sees no film.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from client.batches import draw, inputs_of
from client.cancellation import Cancellation
from client.private.gradients import Gradients, clipped_sum
from common.accounting import Noisy
from common.options import Precision, Training
from common.secret_stream import SecretStream
from common.shard import Shard


def noisy_steps(training: Training, images: int) -> Noisy:
    """Return what a round on so many images costs."""
    return Noisy(
        noise=training.dp_noise,
        rate=min(1.0, training.batch_size / images),
        steps=training.steps(images),
    )


def train_privately(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    shard: Shard,
    indices: npt.NDArray[np.intp],
    training: Training,
    secret: SecretStream,
    device: torch.device,
    precision: Precision,
    cancellation: Cancellation,
    before_step: Callable[[], None],
) -> None:
    """Take all steps of a round.

    Args:
        model: On the device, in evaluation mode.
        parameters: Those that are trained, by name.
        optimizer: Of these.
        shard: The hospital's.
        indices: Of the images to train on, each with a known label.
        training: Settings.
        secret: Draws the films, their crops and the noise.
        device: Where to compute.
        precision: Of the network.
        cancellation: Checked before each step.
        before_step: Called when the gradients of a step are there; must not look at films.

    Raises:
        GivenUp: The result is of no use any more.
    """
    cost = noisy_steps(training, len(indices))
    for _ in range(cost.steps):
        cancellation.check()
        chosen = indices[secret.uniform(len(indices)) < cost.rate]
        rng = np.random.default_rng(int(secret.uniform(1)[0] * 2**53))
        found = _gradients(model, parameters, shard, chosen, training, rng, device, precision)
        for name, parameter in parameters.items():
            noise = secret.normal(parameter.numel()).astype(np.float32).reshape(parameter.shape)
            deviation = training.dp_noise * training.dp_clip
            total = found[name] + deviation * torch.from_numpy(noise).to(device)
            parameter.grad = total / (cost.rate * len(indices))
        before_step()
        optimizer.step()


def _gradients(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    shard: Shard,
    chosen: npt.NDArray[np.intp],
    training: Training,
    rng: np.random.Generator,
    device: torch.device,
    precision: Precision,
) -> Gradients:
    """Return the sum of the chosen films' shortened gradients; there may be no film."""
    if not len(chosen):
        return {name: torch.zeros_like(each) for name, each in parameters.items()}
    films, draws, labels, _ = (t.to(device) for t in draw(shard, chosen, training.augment, rng))
    inputs = inputs_of(shard, films, draws, training.augment)
    return clipped_sum(
        model, parameters, inputs, labels, training.dp_clip, training.mode, precision
    )
