"""Serialises a model's state as safetensors, and checks received states against a specification.

Received data are never unpickled: safetensors is a JSON header and raw bytes
(https://github.com/huggingface/safetensors, "Format").
"""

import hashlib
import json
import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from common.state import Spec, State, spec_of

Blob = bytes | memoryview
"""A packed state."""


class WireError(ValueError):
    """Received weights do not match the specification; the message names the tensor."""


def pack(state: State) -> bytes:
    """Return a state in safetensors format; dtypes and 0-d shapes are preserved.

    The bytes do not depend on the order of the tensors.
    """
    # ascontiguousarray alone would make a 0-d array 1-d.
    return save({name: np.ascontiguousarray(a).reshape(a.shape) for name, a in state.items()})


class _Layout(NamedTuple):
    """Where :func:`pack` puts the tensors of a specification.

    Attributes:
        header: The first bytes of the blob, which say all that follows.
        size: Of the blob.
        offsets: Of each tensor, from the blob's beginning.
    """

    header: bytes
    size: int
    offsets: dict[str, int]


def unpack(blob: Blob, spec: Spec) -> State:
    """Return the state in a safetensors blob, in the order of the specification.

    The arrays of a blob of :func:`pack` are views of it, read-only as bytes are; nothing is copied.

    Args:
        blob: The received bytes.
        spec: The exact tensors that it must have.

    Raises:
        WireError: The bytes are not safetensors, or a name, dtype or shape differs.
    """
    layout = _layout_of(tuple(spec.items()))
    view = memoryview(blob)
    header = len(layout.header)
    if len(view) != layout.size or view[:header] != layout.header:
        return _unpack_any(bytes(view), spec)
    return {
        name: np.frombuffer(view, dtype, math.prod(shape), layout.offsets[name]).reshape(shape)
        for name, (dtype, shape) in spec.items()
    }


def packed_size(spec: Spec) -> int:
    """Return how many bytes :func:`pack` makes of a state."""
    return _layout_of(tuple(spec.items())).size


@lru_cache(maxsize=16)
def _layout_of(spec: tuple[tuple[str, tuple[str, tuple[int, ...]]], ...]) -> _Layout:
    blob = pack({name: np.zeros(shape, dtype) for name, (dtype, shape) in spec})
    start = 8 + int.from_bytes(blob[:8], "little")
    told = json.loads(blob[8:start])
    offsets = {name: start + entry["data_offsets"][0] for name, entry in told.items()}
    return _Layout(blob[:start], len(blob), offsets)


def _unpack_any(blob: bytes, spec: Spec) -> State:
    """Return what is in a blob that another program may have packed."""
    try:
        state = load(blob)
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise WireError(f"not a safetensors blob ({type(error).__name__})") from error
    for name in spec:
        if name not in state:
            raise WireError(f"tensor {name} is missing")
    for name, (dtype, shape) in spec_of(state).items():
        if name not in spec:
            raise WireError(f"tensor {name[:80]!r} does not belong to the model")
        if (dtype, shape) != spec[name]:
            raise WireError(
                f"tensor {name} is {dtype} {shape}, not {spec[name][0]} {spec[name][1]}"
            )
    return {name: state[name] for name in spec}


def is_packed(path: Path) -> bool:
    """Return whether a file can be read and is a whole safetensors blob, by header and length."""
    try:
        with safe_open(path, "numpy"):
            return True
    except (OSError, SafetensorError):
        return False


def fingerprint(blob: Blob) -> str:
    """Return the SHA-256 of a blob, as 64 hexadecimal digits."""
    return hashlib.sha256(blob).hexdigest()
