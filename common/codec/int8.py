"""int8: whole steps from -127 to 127, and the length of a step for each channel.

With the channel x, a row along the first axis of a tensor with two axes or more, and random u in
[0, 1)::

    s = max |x| / 127        q = floor(x / s + u)        decoded: s q

so that the mean of s q is x: Alistarh et al., "QSGD", NeurIPS 2017, section 3.1, scaled by the
largest entry instead of the norm. Parameters with one axis, the biases and BatchNorm's scales, are
few and travel in bf16.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from common.codec import bf16
from common.state import WEIGHTS, Spec, State, join, split
from common.wire import WireError

STEPS = 127
"""To each side of zero."""

SCALES = "scale"
"""Name of the steps' lengths among the named states in one message."""


def spec_of_encoded(parameters: Spec) -> Spec:
    """Return what is encoded: steps and scales, or bf16 for parameters with one axis."""
    wide = {name: shape for name, (_, shape) in parameters.items() if len(shape) > 1}
    narrow = {name: like for name, like in parameters.items() if name not in wide}
    steps: Spec = {name: ("int8", shape) for name, shape in wide.items()}
    scales: Spec = {name: ("float32", shape[:1]) for name, shape in wide.items()}
    return join({WEIGHTS: steps | bf16.spec_of_encoded(narrow), SCALES: scales})


def encode(parameters: State, rng: np.random.Generator) -> State:
    """Return the parameters' steps and scales."""
    values: State = {}
    scales: State = {}
    for name, array in parameters.items():
        if array.ndim > 1:
            values[name], scales[name] = quantised(array, rng)
        else:
            values[name] = bf16.rounded(array, rng)
    return join({WEIGHTS: values, SCALES: scales})


def decode(encoded: State, parameters: Spec) -> State:
    """Return the parameters.

    Raises:
        WireError: A scale is not finite.
    """
    states = split(encoded)
    values, scales = states[WEIGHTS], states.get(SCALES, {})
    decoded: State = {}
    for name in parameters:
        if name not in scales:
            decoded[name] = bf16.widened(values[name])
            continue
        if not np.isfinite(scales[name]).all():
            raise WireError(f"the scales of tensor {name} are not finite")
        decoded[name] = values[name] * _along_first(scales[name], values[name].ndim)
    return decoded


def quantised(
    array: npt.NDArray[Any], rng: np.random.Generator
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return steps, int8 in the array's shape, and each channel's scale, float32.

    Args:
        array: float32 with two axes or more, the channels along the first.
        rng: Rounds at random.
    """
    largest = np.abs(array).max(axis=tuple(range(1, array.ndim)), initial=0)
    scale = (largest / STEPS).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):  # where all of a channel is 0, or too much
        steps = array / _along_first(scale, array.ndim)
        steps = np.floor(np.nan_to_num(steps) + rng.random(array.shape, np.float32))
    return np.clip(steps, -STEPS, STEPS).astype(np.int8), scale


def _along_first(scale: npt.NDArray[Any], axes: int) -> npt.NDArray[Any]:
    return scale.reshape(-1, *(1,) * (axes - 1))
