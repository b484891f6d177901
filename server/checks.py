"""What a hospital's reply must be before it is averaged; a bad one costs the hospital its round.

Flower itself would average a NaN or a shape that broadcasts, believe any number of examples, and
hang on a missing tensor.
"""

import math

import numpy as np

from common.protocol import Hello, Instruction, Reply
from common.wire import Spec, State, WireError, fingerprint, unpack


class Rejected(Exception):  # noqa: N818 - a verdict, not a fault
    """A reply is not averaged; the message says why, in words fit for a log."""


def check_reply(reply: Reply, hello: Hello, instruction: Instruction) -> None:
    """Check the words of a reply.

    Raises:
        Rejected: It failed, belongs to another attempt, or claims what cannot be.
    """
    if reply.identity != instruction.identity:
        raise Rejected(f"answers another attempt ({reply.identity})")
    if reply.status != "ok":
        raise Rejected(f"failed at the hospital ({reply.reason})")
    if instruction.task == "evaluate":
        return
    if not 0 < reply.examples <= hello.examples:
        raise Rejected(f"claims {reply.examples} examples, having announced {hello.examples}")
    if reply.loss is None:
        raise Rejected("tells no training loss")


def check_weights(reply: Reply, blob: bytes, spec: Spec) -> State:
    """Return the weights of a reply.

    Raises:
        Rejected: The blob is not what was hashed, not the model's, or not finite.
    """
    if fingerprint(blob) != reply.weights:
        raise Rejected("the weights do not have the hash that was announced")
    try:
        state = unpack(blob, spec)
    except WireError as error:
        raise Rejected(str(error)) from None
    for name, array in state.items():
        if not np.isfinite(array).all():
            raise Rejected(f"tensor {name} is not finite")
    return state


def update_norm(before: State, after: State) -> float:
    """Return the Euclidean norm of the change over all floating tensors of ``after``."""
    total = 0.0
    for name, array in after.items():
        if np.issubdtype(array.dtype, np.floating):
            change = (array - before[name]).ravel()
            total += float(np.dot(change, change))
    return math.sqrt(total)
