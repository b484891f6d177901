"""Slots: clients on one machine take turns through lock files in a folder that they share."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from client.cancellation import NEVER, Cancellation
from common.errors import BadInput

POLL_SECONDS = 0.05


def check_slots(folder: Path, slots: int) -> None:
    """Make the lock files, before anybody waits for the hospital.

    Raises:
        BadInput: They cannot be made.
    """
    try:
        for file in _open(folder, slots):
            file.close()
    except OSError as error:
        raise BadInput(f"--slots-dir {folder}: {error.strerror}; give another folder") from None


@contextmanager
def slot(folder: Path | None, slots: int, cancellation: Cancellation = NEVER) -> Iterator[float]:
    """Hold one of a number of slots for the length of the block.

    The kernel releases a slot when its holder ends, however it ends.

    Args:
        folder: Where the lock files are, made if need be; None: there are no turns.
        slots: How many may hold one at once.
        cancellation: Checked while it waits.

    Yields:
        Seconds spent waiting.

    Raises:
        GivenUp: Its turn is of no use any more.
    """
    if folder is None:
        yield 0.0
        return
    start = time.monotonic()
    files = _open(folder, slots)
    try:
        while not any(_lock(file.fileno()) for file in files):
            cancellation.check()
            time.sleep(POLL_SECONDS)
        yield time.monotonic() - start
    finally:
        for file in files:
            file.close()


def _open(folder: Path, slots: int) -> list[TextIO]:
    folder.mkdir(parents=True, exist_ok=True)
    return [(folder / f"slot-{i}.lock").open("a") for i in range(slots)]


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
