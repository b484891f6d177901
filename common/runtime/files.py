"""Files that are either whole or not there, and their hashes."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock, get_native_id
from typing import Any, BinaryIO

from common.errors import BadInput

RESERVED_BYTES = 1 << 16
"""Of the disk, which :func:`keep_reserve` takes."""

_appending = Lock()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def drop_temporary(path: Path) -> None:
    """Remove what a killed process left of :func:`write_whole`; no other may be writing."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        left.unlink()


def sync_folder(folder: Path) -> None:
    """Make names that were created in or renamed into a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path, result: Path) -> Iterator[None]:
    """Hold a folder for the length of the block; the kernel lets go when the process ends.

    Args:
        folder: What only one process may write in.
        result: What it is writing, for the message.

    Raises:
        BadInput: Another process holds it, or it cannot be opened.
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
        yield
    finally:
        os.close(descriptor)


def write_whole(path: Path, write: Callable[[BinaryIO], object], mode: int = 0o666) -> None:
    """Write a file under a temporary name, fsync it and rename it over ``path``.

    A reader sees the old file or the new one, never a part; a failure leaves no temporary file.

    Args:
        path: The file.
        write: Writes the content.
        mode: Who may read and write it, less the umask.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{get_native_id()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole, indented, with a final newline; see :func:`write_whole`.

    Raises:
        ValueError: A number is not finite.
    """
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def append_json(path: Path, line: dict[str, Any]) -> None:
    """Append one line of JSON, from any thread; it is on disk when this returns.

    Raises:
        OSError: It cannot be written; nothing of it is left in the file.
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
        OSError: They cannot be written; a part may have been.
    """
    while data:  # once, unless the disk is full: then the second write says so
        data = data[file.write(data) :]
    os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return what :func:`append_json` wrote; a last line that was cut off is removed.

    Raises:
        BadInput: A line is no JSON.
    """
    if not path.exists():
        return []
    drop_torn_line(path)
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines()]
    except ValueError:
        raise BadInput(f"{path}: damaged; restore it from a backup") from None


def drop_torn_line(path: Path) -> None:
    """Cut off a last line that a process which was killed has not written to its end."""
    content = path.read_bytes() if path.exists() else b""
    if not content.endswith(b"\n") and content:
        os.truncate(path, content.rfind(b"\n") + 1)


def keep_reserve(folder: Path) -> None:
    """Take some of the disk, to be given up for what must be written when it is full.

    Raises:
        OSError: There is no room for it.
    """
    if not _reserve(folder).exists():
        write_whole(_reserve(folder), lambda file: file.write(bytes(RESERVED_BYTES)))


def give_up_reserve(folder: Path) -> None:
    """Give up what :func:`keep_reserve` took."""
    _reserve(folder).unlink(missing_ok=True)


def _reserve(folder: Path) -> Path:
    return folder / ".reserve"


def remedy(error: OSError) -> str:
    """Return what is to be done about a file that cannot be written, for an error's line."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room"
    return "see that it can be written"


def now() -> str:
    """Return the time in UTC, as files state it: ISO 8601 with milliseconds."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
