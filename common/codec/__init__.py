"""How a change of a model travels in fewer bytes; one file for each way.

::

    bf16    two bytes a parameter, rounded at random
    int8    one byte a parameter, and a scale for each channel
    topk    the largest changes alone

A change has, for each parameter of the model, by how much it changed. All else is exact:
BatchNorm's running statistics and counters as they are now, and what a strategy sends beside the
weights. The encoded tensors are packed (:mod:`common.wire`) and compressed by zstd (RFC 8878).

The receiver knows every tensor's size before it reads a byte, so that no sender can make it
allocate more than that.
"""

from typing import Literal

import numpy as np
import zstandard

from common.codec import bf16, int8, topk
from common.codec.base import Codec
from common.options import Wire
from common.state import Spec, State, is_parameter
from common.wire import Blob, WireError, pack, packed_size, unpack

CODECS: dict[Literal["bf16", "int8", "topk"], Codec] = {
    "bf16": Codec(bf16.spec_of_encoded, bf16.encode, bf16.decode),
    "int8": Codec(int8.spec_of_encoded, int8.encode, int8.decode),
    "topk": Codec(topk.spec_of_encoded, topk.encode, topk.decode),
}

LEVEL = 3
"""Of zstd, its default: higher ones take many times as long for 1 % less."""


def is_encoded(name: str) -> bool:
    """Return whether a tensor of joined states is one of the model's parameters."""
    return "/" not in name and is_parameter(name)


def encode(change: State, wire: Wire, rng: np.random.Generator) -> bytes:
    """Return a change as it travels.

    Args:
        change: float32 parameters, and other tensors that travel exactly; joined states.
        wire: How.
        rng: Rounds at random.
    """
    if wire == "fp32":
        return pack(change)
    parameters = {name: array for name, array in change.items() if is_encoded(name)}
    exact = {name: array for name, array in change.items() if not is_encoded(name)}
    packed = pack(exact | CODECS[wire].encode(parameters, rng))
    return zstandard.ZstdCompressor(level=LEVEL).compress(packed)


def decode(blob: Blob, spec: Spec, wire: Wire) -> State:
    """Return the change in a blob, in the order of the specification.

    Args:
        blob: The received bytes.
        spec: Of the change.
        wire: How it was encoded.

    Raises:
        WireError: The blob is not what :func:`encode` makes of such a change.
    """
    if wire == "fp32":
        return unpack(blob, spec)
    parameters = {name: like for name, like in spec.items() if is_encoded(name)}
    exact = {name: like for name, like in spec.items() if not is_encoded(name)}
    encoded_spec = CODECS[wire].spec(parameters)
    encoded = unpack(_decompress(blob, exact | encoded_spec), exact | encoded_spec)
    change = CODECS[wire].decode({name: encoded[name] for name in encoded_spec}, parameters)
    return {name: change[name] if name in change else encoded[name] for name in spec}


def _decompress(blob: Blob, spec: Spec) -> bytes:
    """Return the packed state in a zstd frame, which must have the size of such a state.

    Raises:
        WireError: It is no such frame.
    """
    size = packed_size(spec)
    try:
        claimed = zstandard.get_frame_parameters(blob).content_size
        if claimed != size:
            raise WireError(f"the zstd frame is of {claimed} bytes, not {size}")
        # With its true size in its header a frame is unpacked into so many bytes and no more.
        return zstandard.ZstdDecompressor().decompress(blob, allow_extra_data=False)
    except zstandard.ZstdError:
        raise WireError("not a whole zstd frame") from None
