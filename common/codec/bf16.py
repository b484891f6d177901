"""bf16: the upper half of a float32, rounded up or down at random, so that its mean is exact.

A float32's distance to the two bf16 numbers beside it says how likely each is: a random number
below 2^16 is added to the bits, and the lower half is dropped. Unbiased rounding is Alistarh et
al.'s, "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", NeurIPS 2017,
section 3.1, with bf16's steps in the place of uniform ones.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from common.state import Spec, State


def spec_of_encoded(parameters: Spec) -> Spec:
    """Return what is encoded: each parameter's bits, uint16."""
    return {name: ("uint16", shape) for name, (_, shape) in parameters.items()}


def encode(parameters: State, rng: np.random.Generator) -> State:
    """Return the bits of parameters, uint16."""
    return {name: rounded(array, rng) for name, array in parameters.items()}


def decode(encoded: State, parameters: Spec) -> State:
    """Return the parameters of which these are the bits."""
    return {name: widened(encoded[name]) for name in parameters}


def rounded(array: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Return the bf16 bits of float32 numbers, with rounding errors of mean 0."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    chance = rng.integers(0, 1 << 16, bits.shape, np.uint32)
    return np.asarray((bits + chance) >> 16, np.uint16).reshape(array.shape)


def widened(bits: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the numbers, float32, whose bf16 bits these are."""
    return np.asarray(bits.astype(np.uint32) << 16).view(np.float32)
