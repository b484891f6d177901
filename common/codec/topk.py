"""topk: the largest changes of all parameters, by magnitude, in bf16, and where they are.

Lin et al., "Deep Gradient Compression", ICLR 2018, section 3, send the largest 0.1 % in each of
many thousand steps. A federation has few rounds, and so more is sent in each. What is not sent must
not be lost, or the small changes never count: see :mod:`common.codec.change`.

Where they are travels as a bit for each parameter, which zstd makes about as short as positions
could be; it has a known length, no order and no position twice.
"""

import math

import numpy as np

from common.codec import bf16
from common.state import Spec, State
from common.wire import WireError

SHARE = 0.02
"""Of the parameters: nine tenths of the squared length of a DenseNet-121's first update, in 1 % of
its bytes, of which BatchNorm's exact statistics are a quarter already (benchmarks/wire.md)."""

WHERE = "top/where"
VALUES = "top/values"


def spec_of_encoded(parameters: Spec) -> Spec:
    """Return what is encoded: a bit for each parameter, and the values of those that are sent."""
    total = _size(parameters)
    return {WHERE: ("uint8", (math.ceil(total / 8),)), VALUES: ("uint16", (sent_of(total),))}


def sent_of(total: int) -> int:
    """Return how many of so many parameters are sent."""
    return math.ceil(SHARE * total)


def encode(parameters: State, rng: np.random.Generator) -> State:
    """Return where the largest parameters are, and their values."""
    flat = np.concatenate([array.ravel() for array in parameters.values()])
    where = np.zeros(flat.size, bool)
    where[np.argpartition(np.abs(flat), -sent_of(flat.size))[-sent_of(flat.size) :]] = True
    return {WHERE: np.packbits(where), VALUES: bf16.rounded(flat[where], rng)}


def decode(encoded: State, parameters: Spec) -> State:
    """Return the parameters, zero where none was sent.

    Raises:
        WireError: Not as many places are marked as values were sent, or one that there is not.
    """
    total = _size(parameters)
    where = np.unpackbits(encoded[WHERE]).astype(bool)
    if where[total:].any():
        raise WireError("a change is marked beyond the last parameter")
    if (marked := np.count_nonzero(where)) != sent_of(total):
        raise WireError(f"{marked} changes are marked, {sent_of(total)} were sent")
    flat = np.zeros(total, np.float32)
    flat[where[:total]] = bf16.widened(encoded[VALUES])
    ends = np.cumsum([math.prod(shape) for _, shape in parameters.values()])
    parts = np.split(flat, ends[:-1])
    return {
        name: part.reshape(shape)
        for (name, (_, shape)), part in zip(parameters.items(), parts, strict=True)
    }


def _size(parameters: Spec) -> int:
    return sum(math.prod(shape) for _, shape in parameters.values())
