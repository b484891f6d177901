"""What a hospital's reply must be before it is averaged; a bad one costs the hospital its round.

Flower itself would average a NaN or a shape that broadcasts, believe any number of examples, and
hang on a missing tensor.
"""

import math
import statistics

import numpy as np

from common.protocol import Hello, Instruction, Reply
from common.wire import Spec, State, WireError, unpack

FEWEST_NORMS = 3
"""Of two updates none can be called the outlier."""


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


def check_weights(reply: Reply, blob: bytes, received: str | None, spec: Spec) -> State:
    """Return the weights of a reply.

    Args:
        reply: Announces their hash.
        blob: What came.
        received: Hash of what came.
        spec: Of the model.

    Raises:
        Rejected: The blob is not what was hashed, not the model's, or not finite.
    """
    if received is None or received != reply.weights:
        raise Rejected("the weights do not have the hash that was announced")
    try:
        state = unpack(blob, spec)
    except WireError as error:
        raise Rejected(str(error)) from None
    for name, array in state.items():
        if not np.isfinite(array).all():
            raise Rejected(f"tensor {name} is not finite")
        if name.endswith(("running_var", "num_batches_tracked")) and (array < 0).any():
            raise Rejected(f"tensor {name} is negative")
    return state


def update_norm(before: State, after: State) -> float:
    """Return the Euclidean norm of the change over all floating tensors of ``after``."""
    total = 0.0
    for name, array in after.items():
        if np.issubdtype(array.dtype, np.floating):
            change = (array - before[name]).ravel()
            total += float(np.dot(change, change))
    return math.sqrt(total)


def outliers(norms: dict[str, float], limit: float) -> dict[str, str]:
    """Return which updates are far longer than the round's median, each with the reason.

    Args:
        norms: Of the updates, by the hospital's name.
        limit: How many times the median is too long; 0: none is.
    """
    if not limit or len(norms) < FEWEST_NORMS:
        return {}
    middle = statistics.median(norms.values())
    return {
        name: f"its update's norm {norm:.3g} is more than {limit:g} times the median {middle:.3g}"
        for name, norm in norms.items()
        if middle and norm > limit * middle
    }
