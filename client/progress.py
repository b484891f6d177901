"""How far a hospital is with an instruction, told while it is at work."""

from collections.abc import Callable
from time import monotonic
from typing import Literal

from client.cancellation import Cancellation

TELL_SECONDS = 2.0
"""Between two words on the progress, at least; the first one comes so long after the beginning."""

Phase = Literal["scoring", "training"]

Tell = Callable[[Phase, float], object]
"""Takes the phase and the share of its batches that are done."""


class Steps(Cancellation):
    """Is asked before each batch of a phase, and tells how many are done.

    Args:
        cancellation: Is asked in turn.
        tell: Is told.
        phase: The phase.
        count: Batches that it has.
    """

    def __init__(self, cancellation: Cancellation, tell: Tell, phase: Phase, count: int) -> None:
        self._cancellation = cancellation
        self._tell = tell
        self._phase: Phase = phase
        self._count = count
        self._done = 0

    def check(self) -> None:
        """Tell that a batch is about to begin.

        Raises:
            GivenUp: The result is of no use any more.
        """
        self._cancellation.check()
        self._tell(self._phase, self._done / self._count)
        self._done += 1


def now_and_then(tell: Tell) -> Tell:
    """Return what passes on a word every :data:`TELL_SECONDS`, and drops all others."""
    told = monotonic()

    def pass_on(phase: Phase, share: float) -> None:
        nonlocal told
        if monotonic() - told >= TELL_SECONDS:
            told = monotonic()
            tell(phase, share)

    return pass_on


def tell_nobody(phase: Phase, share: float) -> None:
    """Do nothing."""
    del phase, share
