"""Serialises a model's state as safetensors, and checks received states against a specification.

Received data are never unpickled: safetensors is a JSON header and raw bytes
(https://github.com/huggingface/safetensors, "Format").
"""

import hashlib

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.state import Spec, State, spec_of


class WireError(ValueError):
    """Received weights do not match the specification; the message names the tensor."""


def pack(state: State) -> bytes:
    """Return a state in safetensors format; dtypes and 0-d shapes are preserved.

    The bytes do not depend on the order of the tensors.
    """
    # ascontiguousarray alone would make a 0-d array 1-d.
    return save({name: np.ascontiguousarray(a).reshape(a.shape) for name, a in state.items()})


def unpack(blob: bytes, spec: Spec) -> State:
    """Return the state in a safetensors blob, in the order of the specification.

    Args:
        blob: The received bytes.
        spec: The exact tensors that it must have.

    Raises:
        WireError: The bytes are not safetensors, or a name, dtype or shape differs.
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
