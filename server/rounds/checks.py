"""What a hospital's reply must be before it is averaged; a bad one costs the hospital its round.

Flower itself would average a NaN or a shape that broadcasts, believe any number of examples, and
hang on a missing tensor.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from common.codec.change import received as received_state
from common.errors import NoQuorum
from common.histograms import Histograms
from common.protocol import Hello, Instruction, Reply
from common.state import State, spec_of
from common.wire import Blob, WireError

DIVERGED = "the training diverged at learning rate"

IntArray = npt.NDArray[np.integer[Any]]


class Rejected(Exception):  # noqa: N818 - a verdict, not a fault
    """A reply is not averaged; the message says why, in words fit for a log."""


def check_reply(reply: Reply, hello: Hello, instruction: Instruction) -> None:
    """Check the words of a reply.

    Raises:
        Rejected: It failed, belongs to another attempt, or claims what cannot be.
    """
    if reply.identity != instruction.identity:
        raise Rejected(f"answers another attempt ({reply.identity})")
    if reply.status == "diverged":
        raise Rejected(f"{DIVERGED} {instruction.training.lr:g}")
    if reply.status != "ok":
        raise Rejected(f"failed at the hospital ({reply.reason})")
    if reply.validation is not None and reply.validation.images > hello.validation:
        raise Rejected(
            f"claims {reply.validation.images} validation images, having announced "
            f"{hello.validation}"
        )
    _check_histograms(reply)
    if instruction.task == "evaluate":
        return
    private = instruction.training.dp == "sample"
    if reply.privacy is None and private and instruction.batches is None:
        raise Rejected("tells no privacy spent")
    if instruction.secure is not None:
        return
    if not 0 < reply.examples <= hello.examples:
        raise Rejected(f"claims {reply.examples} examples, having announced {hello.examples}")
    if reply.loss is None and not private:
        raise Rejected("tells no training loss")


def _check_histograms(reply: Reply) -> None:
    """Check that histograms count no more films than the scores beside them are of."""
    if reply.histograms is None:
        return
    films = Histograms.from_text(reply.histograms).films
    images = reply.validation.images if reply.validation is not None else 0
    if films > images:
        raise Rejected(f"its histograms are of {films} images, its scores of {images}")


def check_weights(
    reply: Reply,
    blob: Blob,
    received: str | None,
    before: State,
    instruction: Instruction,
) -> State:
    """Check what comes with a reply; return the weights after training, in the names of ``before``.

    Args:
        reply: Announces their hash.
        blob: What came.
        received: Hash of what came.
        before: What was to be trained.
        instruction: How it was to be trained, and how it travels.

    Raises:
        Rejected: The blob is not what was hashed, not the model's, not finite, or its counters
            cannot be those of such training.
    """
    if received is None or received != reply.weights:
        raise Rejected("the weights do not have the hash that was announced")
    try:
        state = received_state(blob, before, spec_of(before), instruction.wire)
    except WireError as error:
        raise Rejected(str(error)) from None
    if (flaw := flaw_of(state)) is not None:
        raise Rejected(flaw)
    steps = instruction.training.steps(reply.examples)
    for name, array in state.items():
        if np.issubdtype(array.dtype, np.integer):
            _check_counter(name, before[name], array, steps)
    return state


def flaw_of(state: State) -> str | None:
    """Return what makes weights unusable, if anything: a number that no model may have."""
    for name, array in state.items():
        if not np.isfinite(array).all():
            return f"tensor {name} is not finite"
        if name.endswith("running_var") and (array < 0).any():
            return f"tensor {name} is negative"
    return None


def _check_counter(name: str, before: IntArray, after: IntArray, steps: int) -> None:
    """Check that a counter of batches has gone up by no more than the steps that were taken.

    The next model has the highest of them, so that one that is too high would stay.
    """
    for old, new in zip(before.ravel().tolist(), after.ravel().tolist(), strict=True):
        if not 0 <= new - old <= steps:
            raise Rejected(f"tensor {name} went from {old} to {new} in {steps} steps")


def stop_if_diverged(
    number: int, rate: float, lr: float, hospitals: int, rejected: Mapping[str, str]
) -> None:
    """End the run if training diverges at most hospitals: the same again would do the same.

    Args:
        number: The round's.
        rate: The round's learning rate.
        lr: The option that it comes from.
        hospitals: That have replied or are still at work.
        rejected: Why replies were rejected, by name.

    Raises:
        NoQuorum: It does.
    """
    diverged = sum(why.startswith(DIVERGED) for why in rejected.values())
    if 2 * diverged > hospitals:
        raise NoQuorum(
            f"round {number}: {DIVERGED} {rate:g} at {diverged} of {hospitals} hospitals; go on "
            f"from the model before it with a lower rate: --resume --change lr={lr / 10:g}"
        )
