"""A log in which changes can be detected: every line has the hash of the line before it.

::

    {"number": 1, "time": "...", "event": "started", ..., "previous": "000...0"}
    {"number": 2, "time": "...", "event": "stopped", ..., "previous": "8d1f...e"}

``previous`` is the SHA-256 of the bytes of the line before, without its newline. A line that is
changed, moved, removed or inserted breaks the chain. Two changes remain undetected: the end can be
cut off or changed, and a user with write access can compute a whole new chain. A copy of
:attr:`AuditLog.head` that is kept elsewhere reveals both.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, NamedTuple

from common.errors import BadInput
from common.runtime.files import now, remedy, sync_folder, write_out

LONGEST = 1 << 20
"""Most bytes of a line with its newline; longer lines are refused."""


class Head(NamedTuple):
    """The last line of a log: its number, from 1, and the SHA-256 of its bytes."""

    number: int
    sha256: str


EMPTY = Head(0, "0" * 64)
"""Head of an empty log, which the first line refers to."""


class BrokenLog(BadInput):
    """The hash chain of a log is broken.

    Args:
        path: The log.
        line: Number, from 1, of the first line that does not follow its predecessor.
        problem: The line's problem.
    """

    def __init__(self, path: Path, line: int, problem: str) -> None:
        super().__init__(f"{path}, line {line}: {problem}")
        self.line = line
        self.problem = problem


class AuditLog:
    """Appends lines to a log, from any thread of one process.

    An existing log is continued. An incomplete last line, left by a kill or a power cut, is removed
    first. Only its owner may read the file.

    Args:
        path: The file, in an existing folder.

    Raises:
        BrokenLog: The chain of an existing log is broken.
        BadInput: The file cannot be opened, or another process is writing it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise BadInput(f"{path}: cannot be opened: {error.strerror}; {remedy(error)}") from None
        self._file = os.fdopen(descriptor, "ab+", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # One attribute, since a signal may come between two assignments.
            self._end = self._read()
            self._cut()
            sync_folder(path.parent)
        except BaseException as error:
            self._file.close()
            if isinstance(error, BlockingIOError):
                raise BadInput(f"{path}: another process is writing it; end that one") from None
            raise

    def __enter__(self) -> "AuditLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def head(self) -> Head:
        """The last line. Keep it elsewhere to detect changes at the end."""
        return self._end[0]

    def write(self, event: str, **fields: Any) -> None:
        """Append a line: it is on disk when this returns, and not in the log if this raises.

        Args:
            event: Name of the event.
            fields: Values for JSON; ``number``, ``time`` and ``previous`` are reserved.

        Raises:
            OSError: The line cannot be written, for example because the disk is full.
            ValueError: A field's name is reserved, a number is not finite, or the line is too long.
        """
        self.write_all([(event, fields)])

    def write_all(self, lines: Collection[tuple[str, dict[str, Any]]]) -> None:
        """Append several lines at once, none if this raises; see :meth:`write`.

        Args:
            lines: Events with their fields.
        """
        with self._lock:
            head, size = self._end
            data = b""
            for event, values in lines:
                line = _line(head, event, values)
                head = Head(head.number + 1, _hash(line))
                data += line
            try:
                write_out(self._file, data)
                self._end = head, size + len(data)
            except BaseException:
                self._cut()
                raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _cut(self) -> None:
        """Remove an incomplete line at the end."""
        self._file.truncate(self._end[1])

    def _read(self) -> tuple[Head, int]:
        """Return the last complete line, and the number of bytes up to its end."""
        head, size = EMPTY, 0
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as file:
            for line in _lines(file):
                if _is_torn(line):
                    break
                try:
                    head = _follow(self.path, head, line)
                except BrokenLog as error:
                    remedy = (
                        f"{error.problem}; move the file away and keep it, and another is begun"
                    )
                    raise BrokenLog(self.path, error.line, remedy) from None
                size += len(line)
        return head, size


def is_being_written(path: Path) -> bool:
    """Return whether a process has a log open to write it; True if this user may not read it."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        return False
    return False


def verify(path: Path, sha256: str | None = None) -> Head:
    """Check that every line of a log follows its predecessor; return the last line.

    Keeps one line in memory. The last line of a log that is being written may look torn.

    Args:
        path: The log; it is not changed.
        sha256: Hash of a line that the log must have; detects an end that was cut off.

    Raises:
        BrokenLog: A line does not follow its predecessor, or no line has the hash.
        BadInput: The file cannot be read.
    """
    head = EMPTY
    found = sha256 in (None, head.sha256)
    try:
        with path.open("rb") as file:
            for line in _lines(file):
                head = _follow(path, head, line)
                found = found or head.sha256 == sha256
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    if not found:
        problem = f"no line has the hash {sha256}: the end of the log was cut off or changed"
        raise BrokenLog(path, head.number + 1, problem)
    return head


def _line(head: Head, event: str, values: dict[str, Any]) -> bytes:
    """Return the line that follows a head.

    Raises:
        ValueError: See :meth:`AuditLog.write`.
    """
    if taken := values.keys() & {"number", "time", "previous"}:
        raise ValueError(f"a field cannot be called {min(taken)}: every line has one")
    line = {"number": head.number + 1, "time": now(), "event": event, **values}
    data = json.dumps({**line, "previous": head.sha256}, allow_nan=False).encode() + b"\n"
    if len(data) > LONGEST:
        raise ValueError(f"a line of {len(data)} bytes; at most {LONGEST} fit")
    return data


def _lines(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.readline(LONGEST), b"")


def _is_torn(line: bytes) -> bool:
    """Return whether the file ends with this line, without a newline."""
    return not line.endswith(b"\n") and len(line) < LONGEST


def _hash(line: bytes) -> str:
    return hashlib.sha256(line.removesuffix(b"\n")).hexdigest()


def _follow(path: Path, head: Head, line: bytes) -> Head:
    """Return the head after one more line.

    Raises:
        BrokenLog: The line does not follow the head.
    """
    number = head.number + 1
    if _is_torn(line):
        problem = "is torn: the file ends in the middle of it; the next writer removes it"
        raise BrokenLog(path, number, problem)
    if not line.endswith(b"\n"):
        raise BrokenLog(path, number, f"is longer than {LONGEST} bytes")
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        raise BrokenLog(path, number, "is not JSON") from None
    if not isinstance(content, dict) or not {"number", "previous"} <= content.keys():
        raise BrokenLog(path, number, "is not a line of an audit log")
    if content["number"] != number:
        problem = "has the wrong number: lines were moved, inserted or removed"
        raise BrokenLog(path, number, problem)
    if content["previous"] != head.sha256:
        problem = "does not hold the hash of the line before it: one of the two was changed"
        raise BrokenLog(path, number, problem)
    return Head(number, _hash(line))
