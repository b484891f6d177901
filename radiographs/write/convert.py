"""Image files become shards: in parallel, in bounded memory, and going on where it was stopped.

Beside the place of the result lies ``.NAME.partial`` until all of it is whole. In it, each shard
has ``images.npy`` in its final size from the start, and ``done.npy``, int64, N x 2: size in bytes
and time of change in nanoseconds of the file that each row is from, 0 for rows to be made. A row
is noted there only once its pixels are on the disk, so neither a kill nor a power cut leaves a
row that is noted and not there; a file that was replaced since is read again.
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
"""How much work a kill may cost."""

NAMED = 3
"""Files that an error names."""

Reader = Callable[[Path, int], Bytes]
"""Takes a file and S; returns uint8, S x S, or raises Unreadable."""


class Part(NamedTuple):
    """A shard to be written.

    Attributes:
        name: Its folder within the result; empty when the result is this one shard.
        files: N image files.
        entries: N lines of the index.
        labels: uint8, N x 14, 0 or 1; None: a shard for pretraining.
        partition: How the hospitals' shares were drawn.
        seed: The partition's seed.
    """

    name: str
    files: list[Path]
    entries: list[Entry]
    labels: Bytes | None
    partition: str | None = None
    seed: int | None = None


class _Task(NamedTuple):
    """A row to be made: the picture in ``file`` goes to ``offset`` of ``target``."""

    file: Path
    target: Path
    offset: int


class _Done(NamedTuple):
    """What became of a task: the file's size and time of change, or why there is no picture."""

    stamp: tuple[int, int]
    problem: str | None


class _Filling(NamedTuple):
    """A part on its way."""

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

    Every file is tried before an unreadable one is reported, and what was done is kept, so that
    the next call with the same arguments needs only the rest.

    Args:
        out: New folder of the result.
        parts: The shards, at least one image in each.
        size: S, pixels along each side.
        source: Where the images come from, for the manifests.
        workers: Decoding processes; 0 for one per core.
        read: A function of a module's top level that decodes a file.
        leave_out: Leave unreadable files out of the shards instead of failing.

    Returns:
        Why, for each file that was left out.

    Raises:
        BadInput: Files cannot be read, none can, ``out`` is taken, an unfinished result is of
            other files or options, or the disk is too small.
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
                "them and run the same command again: what is done is kept"
            )
        for filling in fillings:
            _seal(filling, size, source, problems)
        for part in parts:
            (folder / part.name / DONE).unlink(missing_ok=True)
    return problems


def _first(problems: dict[Path, str]) -> list[tuple[Path, str]]:
    return list(problems.items())[:NAMED]


def _plan(parts: Sequence[Part], size: int, source: str) -> str:
    """Return a hash of all that decides the result but the content of the files."""
    digest = hashlib.sha256(repr((1, size, source)).encode())
    for part in parts:
        files = [str(file.absolute()) for file in part.files]
        labels = None if part.labels is None else part.labels.tobytes()
        digest.update(
            repr((part.name, files, part.entries, labels, part.partition, part.seed)).encode()
        )
    return digest.hexdigest()


def _begin(part: Part, folder: Path, size: int) -> _Filling:
    """Make a part's files, or open those of an unfinished one."""
    folder.mkdir(exist_ok=True)
    images, done = folder / IMAGES, folder / DONE
    if not done.exists():
        n = len(part.files)
        reserve(images, (n, size, size))
        write_whole(done, partial(np.save, arr=np.zeros((n, 2), np.int64)))
    offset = np.load(images, mmap_mode="r").offset
    return _Filling(part, folder, offset, np.load(done))


def _fill(fillings: Sequence[_Filling], size: int, workers: int, read: Reader) -> dict[Path, str]:
    """Make the rows that are not done; return why for each file that gives none."""
    todo = [(filling, row) for filling in fillings for row in _undone(filling)]
    tasks = [
        _Task(f.part.files[row], f.folder / IMAGES, f.offset + row * size * size) for f, row in todo
    ]
    total = sum(len(filling.part.files) for filling in fillings)
    if len(tasks) < total:
        print(f"going on: {total - len(tasks)} of {total} images are done", file=sys.stderr)
    problems: dict[Path, str] = {}
    results = in_order(partial(_make_row, read=read, size=size), tasks, workers)
    bar = tqdm(
        total=total, initial=total - len(tasks), unit=" images", desc="decoding", disable=None
    )
    with closing(results), bar, _noting(fillings) as note:
        for (filling, row), result in zip(todo, results, strict=True):
            if result.problem is None:
                filling.done[row] = result.stamp
            else:
                problems[filling.part.files[row]] = result.problem
            bar.update()
            note()
    return problems


@contextmanager
def _noting(fillings: Sequence[_Filling]) -> Iterator[Callable[[], None]]:
    """Yield what notes the state every few seconds, and note it at the end, come what may.

    In a thread, for the disk may take a second and the processes must not wait for work.
    """
    last: Future[None] | None = None
    noted = time.monotonic()

    def note() -> None:
        nonlocal last, noted
        if time.monotonic() - noted > SYNC_SECONDS and (last is None or last.done()):
            if last is not None:
                last.result()
            noted = time.monotonic()
            last = writer.submit(_note, [(f.folder, f.done.copy()) for f in fillings])

    with ThreadPoolExecutor(1) as writer:
        try:
            yield note
        finally:
            writer.submit(_note, [(f.folder, f.done) for f in fillings]).result()


def _undone(filling: _Filling) -> list[int]:
    """Return the rows to be made: those never made, and those whose file has changed."""
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
    """Decode a file and write its pixels; in a worker process."""
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


def _note(states: Sequence[tuple[Path, npt.NDArray[np.int64]]]) -> None:
    """Bring the pixels to the disk, and after them the note of which rows were done before."""
    for folder, done in states:
        with (folder / IMAGES).open("rb") as file:
            os.fsync(file.fileno())
        write_whole(folder / DONE, partial(np.save, arr=done))


def _seal(filling: _Filling, size: int, source: str, problems: dict[Path, str]) -> None:
    """Make a whole shard of a part whose rows are done, without the files that gave none."""
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
    """Move some of the images' rows up, and leave the others out; takes no room on the disk."""
    # A crash before the manifest is written then starts this part from the beginning.
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
