"""Files that are either whole or not there, and their hashes."""

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
from typing import Any, BinaryIO

from common.errors import BadInput


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
        BadInput: Another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
    """Append one line of JSON; it is on disk when this returns.

    Raises:
        ValueError: A number is not finite.
    """
    text = json.dumps(line, allow_nan=False) + "\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return what :func:`append_json` wrote; a last line that was cut off is removed.

    Raises:
        BadInput: A line is no JSON.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError:
        raise BadInput(f"{path}: damaged; restore it from a backup") from None


def now() -> str:
    """Return the time in UTC, as files state it: ISO 8601 with milliseconds."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
