"""A model that travels as its change since another one, which both sides hold.

With the model x that is held, the new one y, and the residual e of what travelled before::

    travels    c = encode(y + e - x)
    arrives    x + decode(c)
    kept       e' = (y + e) - (x + decode(c))

This is error feedback: nothing is lost, only late, since the sum of what was decoded is the sum of
the changes, less one residual. Seide et al., "1-Bit Stochastic Gradient Descent", Interspeech 2014;
Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", ICML
2019, algorithm 2; both ways: Tang et al., "DoubleSqueeze", ICML 2019, algorithm 1.
"""

from typing import NamedTuple

import numpy as np

from common.codec import decode, encode, is_encoded
from common.options import Wire
from common.state import Spec, State, spec_of
from common.wire import Blob, unpack


class Sent(NamedTuple):
    """What travels, and what the receiver makes of it.

    Attributes:
        blob: As it travels.
        state: As :func:`received` returns it.
        residual: Of the parameters, what has not travelled; empty where the wire is fp32.
    """

    blob: bytes
    state: State
    residual: State


def sent(
    before: State, after: State, residual: State, wire: Wire, rng: np.random.Generator
) -> Sent:
    """Return how a state travels.

    Args:
        before: What the receiver holds: the model's parameters at least.
        after: Joined states with the same parameters.
        residual: What has not travelled before; empty: nothing.
        wire: How it travels; fp32: exactly.
        rng: Rounds at random.
    """
    if wire == "fp32":
        return Sent(encode(after, wire, rng), after, {})
    with np.errstate(over="ignore", invalid="ignore"):  # whoever checks the state finds it
        wanted = {
            name: array + residual[name] if name in residual else array
            for name, array in after.items()
        }
        parameters = [name for name in wanted if is_encoded(name)]
        change = wanted | {name: wanted[name] - before[name] for name in parameters}
        blob = encode(change, wire, rng)
        arrives = received(blob, before, spec_of(after), wire)
        return Sent(blob, arrives, {name: wanted[name] - arrives[name] for name in parameters})


def received(blob: Blob, before: State, spec: Spec, wire: Wire) -> State:
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
    with np.errstate(over="ignore", invalid="ignore"):  # whoever checks the state finds it
        return {
            name: before[name] + array if is_encoded(name) else array
            for name, array in change.items()
        }
