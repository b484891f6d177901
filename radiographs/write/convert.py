"""Converts image files to shards: parallel, resumable and in bounded memory.

An unfinished result is kept in ``.NAME.partial`` next to its final place. In it, each shard has

- ``images.npy``, in its final size from the start
- ``done.npy``, int64, N x 2: size in bytes and modification time in nanoseconds of each row's file,
  or 0 for rows that are not done

``done.npy`` is written after the pixels are synced to disk, so a kill or a power cut never leaves
a row that is marked as done without its pixels. A file that has changed is read again.
"""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from common.array_file import reserve, write_header
from common.errors import BadInput
from common.runtime.files import write_whole
from common.runtime.folders import resumable_folder
from common.shard import IMAGES, MANIFEST, Bytes, Entry, seal_shard
from radiographs.read.decode import Unreadable, decode
from radiographs.write.parallel import in_order

DONE = "done.npy"

SYNC_SECONDS = 5.0
"""Interval between two writes of done.npy: the most work that a kill loses."""

NAMED = 3
"""Most files that an error message names."""

Reader = Callable[[Path, int], Bytes]
"""Function of a file and S that returns uint8, S x S, or raises Unreadable."""


class Part(NamedTuple):
    """A shard to write.

    Attributes:
        name: Folder within the result; empty if the result is this shard.
        files: N image files.
        entries: N lines of the index.
        labels: uint8, N x 14, 0, 1 or UNKNOWN; None for a shard for pretraining.
        partition: How the images were split.
        seed: The partition's seed.
    """

    name: str
    files: list[Path]
    entries: list[Entry]
    labels: Bytes | None
    partition: str | None = None
    seed: int | None = None


class _Task(NamedTuple):
    """A row to write: the picture in ``file`` goes to ``offset`` of ``target``."""

    file: Path
    target: Path
    offset: int


class _Done(NamedTuple):
    """Result of a task: the file's size and modification time, or the reason for no picture."""

    stamp: tuple[int, int]
    problem: str | None


class _Filling(NamedTuple):
    """A part that is being written, with its rows that are done."""

    part: Part
    folder: Path
    offset: int
    done: npt.NDArray[np.int64]


def convert(
    out: Path,
    parts: Sequence[Part],
    *,
    size: int,
    source: str,
    workers: int,
    read: Reader = decode,
    leave_out: bool = False,
) -> dict[Path, str]:
    """Write shards from image files.

    All files are tried before unreadable ones are reported. Finished rows are kept: the next call
    with the same arguments converts only the rest.

    Args:
        out: New folder of the result.
        parts: The shards, with at least one image each.
        size: S, pixels along each side.
        source: Origin of the images, for the manifests.
        workers: Decoding processes; 0 for one per core.
        read: Decodes a file; must be picklable.
        leave_out: Leave unreadable files out of the shards instead of failing.

    Returns:
        The reason for each file that was left out.

    Raises:
        BadInput: Files cannot be read, ``out`` is taken, an unfinished result has other files or
            options, or the disk is too small.
        FedCXRError: A decoding process died.
    """
    with resumable_folder(out, _plan(parts, size, source)) as folder:
        fillings = [
            _begin(part, folder / part.name, size)
            for part in parts
            if not (folder / part.name / MANIFEST).exists()
        ]
        problems = _fill(fillings, size, workers, read)
        if problems and not leave_out:
            raise BadInput(
                f"{len(problems)} of {sum(len(part.files) for part in parts)} images cannot be "
                f"read, first {'; '.join(f'{f}: {why}' for f, why in _first(problems))}; replace "
                "them and run the same command again: finished images are kept"
            )
        for filling in fillings:
            _seal(filling, size, source, problems)
        for part in parts:
            (folder / part.name / DONE).unlink(missing_ok=True)
    return problems


def _first(problems: dict[Path, str]) -> list[tuple[Path, str]]:
    return list(problems.items())[:NAMED]


def _plan(parts: Sequence[Part], size: int, source: str) -> str:
    """Return a hash of everything that decides the result except the files' content."""
    digest = hashlib.sha256(repr((1, size, source)).encode())
    for part in parts:
        files = [str(file.absolute()) for file in part.files]
        labels = None if part.labels is None else part.labels.tobytes()
        digest.update(
            repr((part.name, files, part.entries, labels, part.partition, part.seed)).encode()
        )
    return digest.hexdigest()


def _begin(part: Part, folder: Path, size: int) -> _Filling:
    """Create a part's files, or open those of an unfinished part."""
    folder.mkdir(exist_ok=True)
    images, done = folder / IMAGES, folder / DONE
    if not done.exists():
        n = len(part.files)
        reserve(images, (n, size, size))
        write_whole(done, partial(np.save, arr=np.zeros((n, 2), np.int64)))
    offset = np.load(images, mmap_mode="r").offset
    return _Filling(part, folder, offset, np.load(done))


def _fill(fillings: Sequence[_Filling], size: int, workers: int, read: Reader) -> dict[Path, str]:
    """Write the rows that are not done; return the reason for each unreadable file."""
    todo = [(filling, row) for filling in fillings for row in _undone(filling)]
    tasks = [
        _Task(f.part.files[row], f.folder / IMAGES, f.offset + row * size * size) for f, row in todo
    ]
    total = sum(len(filling.part.files) for filling in fillings)
    if len(tasks) < total:
        print(f"continuing: {total - len(tasks)} of {total} images are done", file=sys.stderr)
    problems: dict[Path, str] = {}
    results = in_order(partial(_make_row, read=read, size=size), tasks, workers)
    bar = tqdm(
        total=total, initial=total - len(tasks), unit=" images", desc="decoding", disable=None
    )
    with closing(results), bar, _saving(fillings) as save:
        for (filling, row), result in zip(todo, results, strict=True):
            if result.problem is None:
                filling.done[row] = result.stamp
            else:
                problems[filling.part.files[row]] = result.problem
            bar.update()
            save()
    return problems


@contextmanager
def _saving(fillings: Sequence[_Filling]) -> Iterator[Callable[[], None]]:
    """Yield a function that saves the state every few seconds; also save it when the block ends.

    Saving runs in a thread: the disk may take a second, and the workers must not wait.
    """
    last: Future[None] | None = None
    saved = time.monotonic()

    def save() -> None:
        nonlocal last, saved
        if time.monotonic() - saved > SYNC_SECONDS and (last is None or last.done()):
            if last is not None:
                last.result()
            saved = time.monotonic()
            last = writer.submit(_save, [(f.folder, f.done.copy()) for f in fillings])

    with ThreadPoolExecutor(1) as writer:
        try:
            yield save
        finally:
            writer.submit(_save, [(f.folder, f.done) for f in fillings]).result()


def _undone(filling: _Filling) -> list[int]:
    """Return the rows that are not done or whose file has changed."""
    return [
        row
        for row, (file, done) in enumerate(
            zip(filling.part.files, filling.done.tolist(), strict=True)
        )
        if done[1] == 0 or not file.exists() or tuple(done) != _stamp(file)
    ]


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _make_row(task: _Task, read: Reader, size: int) -> _Done:
    """Decode a file and write its pixels; runs in a worker process."""
    try:
        stamp = _stamp(task.file)
        picture = read(task.file, size)
    except Unreadable as error:
        return _Done((0, 0), str(error))
    except OSError as error:
        return _Done((0, 0), str(error.strerror))
    descriptor = os.open(task.target, os.O_WRONLY)
    try:
        os.pwrite(descriptor, picture.data, task.offset)
    finally:
        os.close(descriptor)
    return _Done(stamp, None)


def _save(states: Sequence[tuple[Path, npt.NDArray[np.int64]]]) -> None:
    """Sync the pixels to disk, then write which rows are done."""
    for folder, done in states:
        with (folder / IMAGES).open("rb") as file:
            os.fsync(file.fileno())
        write_whole(folder / DONE, partial(np.save, arr=done))


def _seal(filling: _Filling, size: int, source: str, problems: dict[Path, str]) -> None:
    """Finish a shard whose rows are done, leaving out unreadable files."""
    part, folder = filling.part, filling.folder
    kept = [row for row, file in enumerate(part.files) if file not in problems]
    if not kept:
        raise BadInput(f"no image can be read, first {_first(problems)[0][1]}")
    if problems:
        _keep_rows(filling, kept, size)
    seal_shard(
        folder,
        [part.entries[row] for row in kept],
        None if part.labels is None else part.labels[kept],
        size,
        source,
        part.partition,
        part.seed,
    )


def _keep_rows(filling: _Filling, kept: Sequence[int], size: int) -> None:
    """Keep only some rows of the images, in place, without additional disk space."""
    # After a crash before the manifest is written, this part starts from the beginning.
    (filling.folder / DONE).unlink()
    with (filling.folder / IMAGES).open("r+b") as file:
        write_header(file, (len(kept), size, size))
        if file.tell() != filling.offset:
            raise AssertionError("numpy's header has the same length for fewer rows")
        for to, row in enumerate(kept):
            file.seek(filling.offset + row * size * size)
            picture = file.read(size * size)
            file.seek(filling.offset + to * size * size)
            file.write(picture)
        file.truncate(filling.offset + len(kept) * size * size)
