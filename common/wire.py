"""A model's state on the wire: one safetensors blob, checked against a specification.

Nothing that arrives is ever unpickled: safetensors is a JSON header and raw bytes
(https://github.com/huggingface/safetensors, "Format").
"""

import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

State = dict[str, npt.NDArray[Any]]
"""Tensor name to array, as in torchvision's state dict; 0-d integer buffers included."""

Spec = dict[str, tuple[str, tuple[int, ...]]]
"""Tensor name to (dtype name, shape)."""

T = TypeVar("T")

HEAD_PREFIX = "classifier."
"""Tensors whose names begin so are the head; all others are the backbone."""


class WireError(ValueError):
    """A blob is not what was agreed on; the message names the tensor."""


def spec_of(state: Mapping[str, npt.NDArray[Any]]) -> Spec:
    """Return the names, dtypes and shapes of a state."""
    return {name: (array.dtype.name, array.shape) for name, array in state.items()}


def pack(state: State) -> bytes:
    """Return a state as one safetensors blob; dtypes and 0-d shapes are preserved.

    The same state gives the same bytes, whatever the order of its tensors.
    """
    # ascontiguousarray alone would make a 0-d array 1-d.
    return save({name: np.ascontiguousarray(a).reshape(a.shape) for name, a in state.items()})


def unpack(blob: bytes, spec: Spec) -> State:
    """Return the state in a blob, in the order of the specification.

    Args:
        blob: A safetensors blob.
        spec: What it must hold, no more and no less.

    Raises:
        WireError: The blob is no safetensors, or a name, dtype or shape differs.
    """
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


def fingerprint(blob: bytes) -> str:
    """Return the SHA-256 of a blob, as 64 hexadecimal digits."""
    return hashlib.sha256(blob).hexdigest()


def head_of(tensors: Mapping[str, T]) -> dict[str, T]:
    """Return the classifier's part of a state or a specification."""
    return {name: value for name, value in tensors.items() if name.startswith(HEAD_PREFIX)}


def backbone_of(tensors: Mapping[str, T]) -> dict[str, T]:
    """Return all of a state or a specification but the classifier's part."""
    return {name: value for name, value in tensors.items() if not name.startswith(HEAD_PREFIX)}
