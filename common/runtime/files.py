"""Writes files atomically or line by line, and hashes them."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock, get_native_id
from typing import Any, BinaryIO

from common.errors import BadInput

RESERVED_BYTES = 1 << 16
"""Disk space that :func:`keep_reserve` reserves."""

_appending = Lock()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def drop_temporary(path: Path) -> None:
    """Remove temporary files that killed processes left; no process may be writing ``path``."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        left.unlink()


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that files created in it or renamed into it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path, result: Path) -> Iterator[None]:
    """Lock a folder for the duration of the block; the kernel unlocks it when the process ends.

    Args:
        folder: The folder to lock.
        result: The file or folder that is being written, for the error message.

    Raises:
        BadInput: Another process has locked the folder, or it cannot be opened or locked.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be opened: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"{result}: another process is writing it") from None
        except OSError as error:
            raise BadInput(
                f"{result}: cannot be locked: {error.strerror}; write to a local disk"
            ) from None
        yield
    finally:
        os.close(descriptor)


def write_whole(path: Path, write: Callable[[BinaryIO], object], mode: int = 0o666) -> None:
    """Write a file under a temporary name, fsync it and rename it over ``path``.

    Readers see the old file or the new one, never a part. A failure leaves no temporary file.

    Args:
        path: The file.
        write: Function that writes the content.
        mode: Permissions, less the umask.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{get_native_id()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # of which a user knows nothing
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an indented JSON file with a final newline; see :func:`write_whole`.

    Raises:
        ValueError: A number is not finite.
    """
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def append_json(path: Path, line: dict[str, Any]) -> None:
    """Append one line of JSON, from any thread; it is on disk when this returns.

    Raises:
        OSError: The line cannot be written; the file is unchanged.
        ValueError: A number is not finite.
    """
    data = json.dumps(line, allow_nan=False).encode() + b"\n"
    with _appending, path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            write_out(file, data)
        except BaseException:
            file.truncate(end)
            raise


def write_out(file: BinaryIO, data: bytes) -> None:
    """Write to an unbuffered file; the data are on disk when this returns.

    Raises:
        OSError: The data cannot be written; a part may be in the file.
    """
    while data:  # loops only if the disk is full: the second write then raises
        data = data[file.write(data) :]
    os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of :func:`append_json`; an incomplete last line is removed.

    Raises:
        BadInput: A line is not JSON.
    """
    if not path.exists():
        return []
    drop_torn_line(path)
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines()]
    except ValueError:
        raise BadInput(f"{path}: damaged; restore it from a backup") from None


def drop_torn_line(path: Path) -> None:
    """Remove an incomplete last line, left by a killed process."""
    content = path.read_bytes() if path.exists() else b""
    if not content.endswith(b"\n") and content:
        os.truncate(path, content.rfind(b"\n") + 1)


def keep_reserve(folder: Path) -> None:
    """Reserve disk space for a last write when the disk is full.

    Raises:
        OSError: There is not enough space.
    """
    if not _reserve(folder).exists():
        write_whole(_reserve(folder), lambda file: file.write(bytes(RESERVED_BYTES)))


def give_up_reserve(folder: Path) -> None:
    """Release the space that :func:`keep_reserve` reserved."""
    _reserve(folder).unlink(missing_ok=True)


def _reserve(folder: Path) -> Path:
    return folder / ".reserve"


def remedy(error: OSError, otherwise: str = "see that it can be written") -> str:
    """Return the remedy for a file that cannot be written or read, for an error message.

    Args:
        error: What happened.
        otherwise: The remedy where neither room nor a permission is missing.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"the user {os.geteuid()} has to be allowed to: chown it"
    return otherwise


def now() -> str:
    """Return the time in UTC: ISO 8601 with milliseconds."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
