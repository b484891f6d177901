"""A model's state on the wire: one safetensors blob, checked against a specification.

Nothing that arrives is ever unpickled: safetensors is a JSON header and raw bytes
(https://github.com/huggingface/safetensors, "Format").
"""

import hashlib

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.state import Spec, State, spec_of


class WireError(ValueError):
    """A blob is not what was agreed on; the message names the tensor."""


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
