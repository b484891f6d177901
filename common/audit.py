"""An audit log: JSON lines, each with the hash of the one before, so that a change shows.

A line that was removed, altered or put in breaks the chain at the line after it. That the end was
cut off shows only against a hash that was kept elsewhere.
"""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

from common.errors import BadInput
from common.files import now

START = "0" * 64
"""What the first line has in the place of a hash."""


class Broken(BadInput):
    """An audit log is not as it was written; the message names the line."""


class AuditLog:
    """Appends to an audit log; may be used by several threads of one process.

    A last line that was cut off, when a process was killed while it wrote, is removed first: it
    was never said to be written.

    Args:
        path: The file; made, for its owner alone, if need be.

    Raises:
        BadInput: Another process writes it.
        Broken: It was altered.
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._lock = Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._size = _whole_size(path)
            os.ftruncate(self._file, self._size)
            self._number, self._last = verify(path)
        except BlockingIOError:
            self.close()
            raise BadInput(f"{path}: another process is writing it") from None
        except BaseException:
            self.close()
            raise

    def write(self, event: str, **fields: Any) -> None:
        """Append a line; it is on disk when this returns.

        Args:
            event: What happened.
            fields: What belongs to it, for JSON; nothing of a patient.

        Raises:
            OSError: The disk is full; the log is as it was before.
        """
        with self._lock:
            number = self._number + 1
            content = {"number": number, "time": now(), "event": event, **fields}
            text = json.dumps({**content, "previous": self._last}, allow_nan=False)
            line = text.encode() + b"\n"
            try:
                if os.write(self._file, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, self._size)
                raise
            self._size += len(line)
            self._number, self._last = number, _hash(line)

    def close(self) -> None:
        """Let another process write it."""
        os.close(self._file)


def verify(path: Path) -> tuple[int, str]:
    """Check the chain; return the number of lines and the hash of the last one.

    Raises:
        Broken: It was altered; names the first line that does not follow from the one before.
        OSError: It cannot be read.
    """
    number, last = 0, START
    for number, last in chain(path):  # noqa: B007 - the last ones are wanted
        pass
    return number, last


def chain(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and hash of each line, checked.

    Raises:
        Broken: It was altered.
        OSError: It cannot be read.
    """
    last = START
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                content = json.loads(line)
                follows = (content["number"], content["previous"]) == (number, last)
            except (ValueError, KeyError, TypeError, RecursionError):
                follows = False
            if not follows or not line.endswith(b"\n"):
                raise Broken(
                    f"{path}: line {number} does not follow from the one before; something was "
                    "altered, removed or put in there"
                )
            last = _hash(line)
            yield number, last


def _hash(line: bytes) -> str:
    return hashlib.sha256(line.removesuffix(b"\n")).hexdigest()


def _whole_size(path: Path) -> int:
    """Return the bytes up to the last line that is whole."""
    size = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                size += len(line)
    return size
