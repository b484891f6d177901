"""Work that goes on beside the next round: saving a model, scoring it, writing its round's line.

Of a round, each step is on disk before the next one begins::

    checkpoint              checkpoints/round-NNNN.pt
    the line without test   open.json, if there is a test shard
    the line                rounds.jsonl

From the line on, or from ``open.json``, the round is safe: a server that is killed goes on
after it, and scores what is left to score. Before that, it does the round again. Nothing that a
hospital was told may then turn out wrong, so the rounds wait until a round is safe

- before an instruction tells hospitals that it counted, since they then drop what they had kept of
  their own of earlier rounds;
- before a model with the server's noise goes out: the round done again with other hospitals would
  give another one, of which no account is kept;
- before anything is concluded from the replies to the next one: exclusions, a repetition, an
  average.

Until then hospitals have only been sent a model to train. A round that is done again gives the same
one if the same hospitals answer, and is asked for under its own identity in any case: nothing that
was begun meanwhile is averaged.

One piece of work is under way at a time, so that lines stand in the order of the rounds. What it
raises, such as a full disk, is raised where the rounds wait for it next, or while they wait for
hospitals.
"""

import logging
from collections.abc import Callable
from threading import Event, Thread
from typing import Self

log = logging.getLogger(__name__)

SAVE_SECONDS = 5.0
"""How long a run that ends early waits until its last round is safe."""


class BesideNext:
    """Does one piece of work in a thread of its own; a context manager."""

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._safe = Event()
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._safe.wait(SAVE_SECONDS)
        if self._error is not None:  # another error ends the run
            log.error("the last round could not be saved or scored: %s", self._error)

    def start(self, work: Callable[[Callable[[], None]], object]) -> None:
        """Begin a piece of work once the last one is done.

        Args:
            work: Is given what it calls once a killed server would go on after it.

        Raises:
            BaseException: Whatever the last one raised.
        """
        self.wait()
        self._safe.clear()
        # A daemon: a test shard that takes long does not keep a process that must end.
        self._thread = Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def wait_until_safe(self) -> None:
        """Wait until a killed server would go on after the work that was begun last.

        Raises:
            BaseException: Whatever it raised.
        """
        if self._thread is not None:
            self._safe.wait()
        self.check()

    @property
    def busy(self) -> bool:
        """Whether work is under way."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Wait until the work that was begun last is done.

        Raises:
            BaseException: Whatever it raised.
        """
        if self._thread is not None:
            self._thread.join()
        self.check()

    def _run(self, work: Callable[[Callable[[], None]], object]) -> None:
        try:
            work(self._safe.set)
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self._error = error
        finally:
            self._safe.set()

    def check(self) -> None:
        """Raise what the work that was begun last has raised, if it has; wait for nothing."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
