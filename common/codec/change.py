"""A model that travels as its change since another one, which both sides hold."""

from typing import NamedTuple

import numpy as np

from common.codec import decode, encode, is_encoded
from common.options import Wire
from common.state import Spec, State, spec_of
from common.wire import unpack


class Sent(NamedTuple):
    """What travels, and what the receiver makes of it.

    Attributes:
        blob: As it travels.
        state: As :func:`received` returns it.
    """

    blob: bytes
    state: State


def sent(before: State, after: State, wire: Wire, rng: np.random.Generator) -> Sent:
    """Return how a state travels.

    Args:
        before: What the receiver holds: the model's parameters at least.
        after: Joined states with the same parameters.
        wire: How; fp32: exactly.
        rng: Rounds at random.
    """
    if wire == "fp32":
        return Sent(encode(after, wire, rng), after)
    change = {
        name: array - before[name] if is_encoded(name) else array for name, array in after.items()
    }
    blob = encode(change, wire, rng)
    return Sent(blob, received(blob, before, spec_of(after), wire))


def received(blob: bytes, before: State, spec: Spec, wire: Wire) -> State:
    """Return the state that was sent, in the order of the specification.

    Args:
        blob: The received bytes.
        before: What is held.
        spec: Of the state.
        wire: How it travelled.

    Raises:
        WireError: The blob is not what :func:`sent` makes of such a state.
    """
    if wire == "fp32":
        return unpack(blob, spec)
    change = decode(blob, spec, wire)
    with np.errstate(over="ignore"):  # whoever checks the state finds it
        return {
            name: before[name] + array if is_encoded(name) else array
            for name, array in change.items()
        }
