"""Giving up work whose result nobody waits for any more."""

from collections.abc import Callable


class GivenUp(Exception):  # noqa: N818 - a decision, not a fault
    """Nobody waits for the result any more."""


class Cancellation:
    """Asked between two steps of long work.

    Args:
        wanted: Whether the result is still of use; default: always.
    """

    def __init__(self, wanted: Callable[[], bool] = lambda: True) -> None:
        self._wanted = wanted

    def check(self) -> None:
        """Do nothing while the result is of use.

        Raises:
            GivenUp: It is of no use any more.
        """
        if not self._wanted():
            raise GivenUp


NEVER = Cancellation()
"""For work that is always of use."""
