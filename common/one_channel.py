"""First convolutions that read one grey channel, for a model that reads the same grey in three.

The three channels of the model's input are equal, so a convolution sees only the sum of its weights
over the channels. Each channel therefore gets a third of the one-channel weights.

That is the same function of the same input. The networks of torchxrayvision, the usual source, were
trained on another one: grey values from -1024 to 1024 (``torchxrayvision.datasets.normalize``). A
convolution is linear, so the change of units can go into the statistics of the BatchNorm that
follows: u = UNIT v + ZERO turns the input v of :mod:`common.model` into theirs. The weights stay as
they are, and train as they did. Only the outermost three pixels differ: the zeros around a film
stand for another grey.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from common.model import GREY_MEAN, GREY_STD

CONVOLUTION = "features.conv0.weight"
MEAN, VARIANCE = "features.norm0.running_mean", "features.norm0.running_var"

UNIT = 2048 * GREY_STD
ZERO = 2048 * GREY_MEAN - 1024

EPSILON = 1e-5
"""BatchNorm's, torch's default."""

LARGEST_8_BIT, LARGEST_XRV = 127.5, 1024.0
"""The largest standard deviations of values from 0 to 255, and from -1024 to 1024."""


def to_three_channels(features: Mapping[str, object]) -> tuple[dict[str, object], str | None]:
    """Return the features with a first convolution of three channels.

    Args:
        features: The values of an encoder, under the model's names.

    Returns:
        The features, and what the user must know; unchanged and None if the first convolution has
        not one channel.
    """
    changed = dict(features)
    weight = features.get(CONVOLUTION)
    if not (isinstance(weight, Tensor) and weight.is_floating_point() and weight.ndim == 4):
        return changed, None
    if weight.shape[1] != 1:
        return changed, None
    changed[CONVOLUTION] = weight.float().expand(-1, 3, -1, -1) / 3
    what = "its first convolution has one channel, a third of which goes to each of three"
    mean, variance = features.get(MEAN), features.get(VARIANCE)
    if (
        isinstance(mean, Tensor)
        and isinstance(variance, Tensor)
        and mean.shape == variance.shape == weight.shape[:1]
        and _is_xrv(weight, variance)
    ):
        total = weight.double().sum((1, 2, 3))
        changed[MEAN] = (mean.double() - ZERO * total) / UNIT
        # Below 0 for a filter without any effect; hospitals' updates must not have that.
        changed[VARIANCE] = ((variance.double() + EPSILON) / UNIT**2 - EPSILON).clamp(min=0)
        return changed, (
            f"{what}; it was trained on grey values from -1024 to 1024, as torchxrayvision's, "
            "which is made up for except at the outermost 3 pixels"
        )
    return changed, (
        f"{what}; the file does not tell the range of its input, which must have been about this "
        "model's, (grey / 255 - 0.449) / 0.226"
    )


def _is_xrv(weight: Tensor, variance: Tensor) -> bool:
    """Return whether the input had a larger range than 8-bit values, and not more than 2048.

    By the Cauchy-Schwarz inequality the variance of a filter's output is at most the sum of its
    squared weights, times the number of weights, times the variance of the input.
    """
    squares = weight.double().square().sum((1, 2, 3))
    counts = squares > squares.max() / 1000  # smaller ones may be rounding errors
    if not bool(counts.any()):
        return False
    taps = weight[0].numel()
    spread = float(torch.sqrt((variance.double()[counts] / squares[counts]).max() / taps))
    return LARGEST_8_BIT < spread <= LARGEST_XRV
