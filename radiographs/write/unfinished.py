"""The unfinished result of a conversion, and what the next try keeps of it.

It is kept in ``.NAME.partial`` next to its final place. In it, each shard has

- ``images.npy``, in its final size from the start
- ``done.npy``, int64, N x 4: size in bytes and modification time in nanoseconds of each row's file,
  or 0 for rows that are not done; then 128 bits of a hash of the file's path

``done.npy`` is written after the pixels are synced to disk, so a kill or a power cut never leaves
a row that is marked as done without its pixels.

A picture belongs to its file: if the next try has more or fewer files, or splits them otherwise,
the pictures of the files that it has are taken over. Only a file that has changed is read again.
While pictures are taken over, they need their disk space twice.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from common.array_file import reserve, write_header
from common.runtime.files import write_whole
from common.shard import IMAGES, INDEX, LABELS, MANIFEST

Integers = npt.NDArray[np.int64]

DONE = "done.npy"

EARLIER = ".earlier"
"""Folder with the pictures of earlier tries that had other files or another split."""


class Rows(NamedTuple):
    """The rows of a shard that is being filled.

    Attributes:
        folder: The shard's unfinished folder.
        files: N image files, one for each row.
        offset: Position of the first pixel in ``images.npy``.
        done: int64, N x 4, the content of ``done.npy``.
    """

    folder: Path
    files: Sequence[Path]
    offset: int
    done: Integers


def set_aside(folder: Path, files: Mapping[str, Sequence[Path]]) -> None:
    """Prepare the folder of an earlier try for these files.

    Sealed shards are unsealed, since their labels may be others now. Pictures of other files, or in
    another order, are moved to EARLIER.

    Args:
        folder: The unfinished folder, empty at the first try.
        files: The files of each shard, by its name; an empty name is the folder itself.
    """
    keys = {name: _keys(of_shard) for name, of_shard in files.items()}
    earlier = folder / EARLIER
    inner = [entry for entry in folder.iterdir() if entry.is_dir() and entry != earlier]
    for name, shard in (("", folder), *((entry.name, entry) for entry in inner)):
        for sealed in (MANIFEST, INDEX, LABELS):
            (shard / sealed).unlink(missing_ok=True)
        if not (shard / DONE).exists() or not (shard / IMAGES).exists():
            continue
        if name not in keys or not np.array_equal(np.load(shard / DONE)[:, 2:], keys[name]):
            aside = earlier / f"{len(list(earlier.glob('*'))):06d}"
            aside.mkdir(parents=True)
            (shard / IMAGES).rename(aside / IMAGES)
            (shard / DONE).rename(aside / DONE)
    for entry in inner:
        if entry.name not in keys:
            shutil.rmtree(entry)


def begin(folder: Path, files: Sequence[Path], size: int) -> Rows:
    """Create the files of a shard with one row for each file, or open those of an earlier try.

    Raises:
        BadInput: There is not enough disk space.
    """
    folder.mkdir(exist_ok=True)
    images, done = folder / IMAGES, folder / DONE
    if not done.exists() or not images.exists():
        done.unlink(missing_ok=True)
        reserve(images, (len(files), size, size))
        fresh = np.hstack([np.zeros((len(files), 2), np.int64), _keys(files)])
        write_whole(done, partial(np.save, arr=fresh))
    offset = np.load(images, mmap_mode="r").offset
    return Rows(folder, files, offset, np.load(done))


def take_over(earlier: Path, shards: Sequence[Rows]) -> None:
    """Copy pictures that were set aside to the rows of their files, the latest first.

    The folder ``earlier`` is removed when they are on disk.
    """
    if not earlier.exists():
        return
    missing = {
        rows.done[row, 2:].tobytes(): (shard, row)
        for shard, rows in enumerate(shards)
        for row in np.flatnonzero(rows.done[:, 1] == 0).tolist()
    }
    targets = [np.load(rows.folder / IMAGES, mmap_mode="r+") for rows in shards]
    for aside in sorted(earlier.iterdir(), reverse=True):
        if not (aside / DONE).exists():
            continue
        images, done = np.load(aside / IMAGES, mmap_mode="r"), np.load(aside / DONE)
        for row in np.flatnonzero(done[:, 1]).tolist():
            place = missing.pop(done[row, 2:].tobytes(), None)
            if place is not None:
                shard, to = place
                targets[shard][to] = images[row]
                shards[shard].done[to, :2] = done[row, :2]
    for target in targets:
        target.flush()
    save_rows(shards)
    shutil.rmtree(earlier)


def undone(rows: Rows) -> list[int]:
    """Return the rows that are not done or whose file has changed."""
    stamps = zip(rows.files, rows.done[:, :2].tolist(), strict=True)
    return [
        row
        for row, (file, (size, time_ns)) in enumerate(stamps)
        if time_ns == 0 or _has_changed(file, (size, time_ns))
    ]


def stamp_of(file: Path) -> tuple[int, int]:
    """Return a file's size in bytes and its modification time in nanoseconds.

    Raises:
        OSError: The file cannot be reached.
    """
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def save_rows(shards: Sequence[Rows]) -> None:
    """Sync the pixels to disk, then write which rows are done."""
    for rows in shards:
        with (rows.folder / IMAGES).open("rb") as file:
            os.fsync(file.fileno())
        write_whole(rows.folder / DONE, partial(np.save, arr=rows.done))


def keep_rows(rows: Rows, kept: Sequence[int], size: int) -> None:
    """Keep only some rows of the images, in place, without additional disk space."""
    # After a crash while rows are moved, this shard starts from the beginning.
    (rows.folder / DONE).unlink()
    with (rows.folder / IMAGES).open("r+b") as file:
        write_header(file, (len(kept), size, size))
        if file.tell() != rows.offset:
            raise AssertionError("numpy's header has the same length for fewer rows")
        for to, row in enumerate(kept):
            file.seek(rows.offset + row * size * size)
            picture = file.read(size * size)
            file.seek(rows.offset + to * size * size)
            file.write(picture)
        file.truncate(rows.offset + len(kept) * size * size)
    save_rows([rows._replace(done=rows.done[list(kept)])])


def _keys(files: Sequence[Path]) -> Integers:
    """Return int64, N x 2: a hash of each file's path. The path itself may name a patient."""
    digests = [hashlib.sha256(os.fsencode(file.absolute())).digest()[:16] for file in files]
    return np.frombuffer(b"".join(digests), np.int64).reshape(-1, 2)


def _has_changed(file: Path, stamp: tuple[int, int]) -> bool:
    try:
        return stamp_of(file) != stamp
    except OSError:
        return False  # the file is gone, but its picture is here
