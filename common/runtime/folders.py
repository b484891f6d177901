"""Creates folders atomically: a folder is complete or does not exist."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import BadInput
from common.runtime.files import locked, sync_folder

PLAN = ".plan"
"""File in an unfinished folder with a hash of its inputs."""


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Create a folder; it appears under its name only when the block ends without an error.

    Args:
        path: A new or empty folder; parents are created.

    Yields:
        A temporary folder next to ``path``, to fill. It is renamed to ``path`` at the end, or
        removed on an error or interruption.

    Raises:
        BadInput: ``path`` is taken, cannot be replaced by renaming or cannot be written.
    """
    path = path.resolve()
    check_free(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    _make(temporary, path)
    try:
        yield temporary
        check_free(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(path.parent)


@contextmanager
def resumable_folder(path: Path, plan: str) -> Iterator[Path]:
    """Create a folder in a block that can be resumed after an error, an interruption or a crash.

    Args:
        path: A new or empty folder; parents are created.
        plan: Hash of all inputs. An unfinished folder is continued only if its plan is the same.

    Yields:
        ``.NAME.partial`` next to ``path``, empty or as the last try left it. It is renamed to
        ``path`` when the block ends, and kept on an error.

    Raises:
        BadInput: ``path`` is taken or cannot be written, another process is filling it, or an
            unfinished folder has another plan.
    """
    path = path.resolve()
    check_free(path)
    partial = unfinished(path)
    _make(partial, path)
    with locked(partial, path):
        _claim(partial, plan)
        yield partial
        check_free(path)
        partial.rename(path)
        (path / PLAN).unlink()
    sync_folder(path.parent)


def unfinished(path: Path) -> Path:
    """Return the folder in which :func:`resumable_folder` makes a folder; it need not exist."""
    path = path.resolve()
    return path.with_name(f".{path.name}.partial")


def check_free(path: Path) -> None:
    """Refuse a path that is taken.

    Raises:
        BadInput: ``path`` exists and is not an empty folder, or cannot be replaced by renaming.
    """
    if not path.exists():
        return
    if not path.is_dir() or any(path.iterdir()):
        raise BadInput(f"{path}: is there already; choose another name or remove it")
    if path.is_mount():
        raise BadInput(f"{path}: is a mount point; name a folder below it")


def _make(folder: Path, path: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{path}: cannot be made: {error.strerror}") from None


def _claim(partial: Path, plan: str) -> None:
    file = partial / PLAN
    if not any(partial.iterdir()):
        file.write_text(plan, encoding="utf-8")
    elif not file.is_file() or file.read_text(encoding="utf-8") != plan:
        raise BadInput(
            f"{partial}: was begun with other options; continue with those, or remove that folder "
            "to start again"
        )
