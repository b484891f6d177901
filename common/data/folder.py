"""A folder that is either whole or not there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import BadInput
from common.files import sync_folder


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Make a folder; it appears under its name only when the block ends without an error.

    Args:
        path: The new folder, or one that is there and empty; its parents are made.

    Yields:
        A temporary folder beside ``path``, to be filled. It is renamed to ``path`` at the end, or
        removed on any error or interruption.

    Raises:
        BadInput: ``path`` is taken, cannot be replaced by renaming or cannot be written.
    """
    path = path.resolve()
    _check_free(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise BadInput(f"{path}: cannot be made: {error.strerror}") from None
    try:
        yield temporary
        _check_free(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(path.parent)


def _check_free(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir() or any(path.iterdir()):
        raise BadInput(f"{path}: is there already; choose another name or remove it")
    if path.is_mount():
        raise BadInput(f"{path}: is a mount point; name a folder below it")
