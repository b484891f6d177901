"""Converts image files to shards: parallel, resumable and in bounded memory.

``write/unfinished.py`` has the format of an unfinished result and what the next try keeps of it.
"""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from common.errors import BadInput
from common.runtime.folders import resumable_folder
from common.shard import IMAGES, Bytes, Entry, seal_shard
from radiographs.read.decode import Unreadable, decode
from radiographs.write.parallel import in_order
from radiographs.write.unfinished import (
    DONE,
    EARLIER,
    Rows,
    begin,
    keep_rows,
    save_rows,
    set_aside,
    stamp_of,
    take_over,
    undone,
)

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


def convert(
    out: Path,
    parts: Sequence[Part],
    *,
    size: int,
    source: str,
    workers: int,
    read: Reader = decode,
    leave_out: bool = False,
    remedy: str = "",
    tell: Callable[[Mapping[Path, str]], None] | None = None,
) -> dict[Path, str]:
    """Write shards from image files.

    All files are tried before unreadable ones are reported. Finished pictures are kept: the next
    call with the same size and source converts only the rest, whatever its files and labels.

    Args:
        out: New folder of the result.
        parts: The shards, with at least one image each.
        size: S, pixels along each side.
        source: Origin of the images, for the manifests.
        workers: Decoding processes; 0 for one per core.
        read: Decodes a file; must be picklable.
        leave_out: Leave unreadable files out of the shards instead of failing.
        remedy: How the user may leave them out, for the message.
        tell: Names unreadable files to the user, since no error may; None: errors name the first.

    Returns:
        The reason for each file that was left out.

    Raises:
        BadInput: Files cannot be read, ``out`` is taken, an unfinished result has another size or
            source, or the disk is too small.
        FedCXRError: A decoding process died.
    """
    with resumable_folder(out, _plan(size, source)) as folder:
        set_aside(folder, {part.name: part.files for part in parts})
        shards = [begin(folder / part.name, part.files, size) for part in parts]
        take_over(folder / EARLIER, shards)
        problems = _fill(shards, size, workers, read)
        named = NAMED if tell is None else 0
        if tell is not None:
            tell(problems)
        if problems and not leave_out:
            alternative = f", or {remedy}," if remedy else ""
            raise BadInput(
                f"{_unreadable(problems, parts, named)}; replace them{alternative} and run the "
                "same command again: finished images are kept"
            )
        for part, rows in zip(parts, shards, strict=True):
            _seal(part, rows, size, source, problems, named)
        for part in parts:
            (folder / part.name / DONE).unlink(missing_ok=True)
    return problems


def tell_left_out(problems: dict[Path, str], parts: Sequence[Part]) -> None:
    """Print the number of files that :func:`convert` has left out, and the first, on stderr."""
    if problems:
        print(f"left out: {_unreadable(problems, parts, NAMED)}", file=sys.stderr)


def _unreadable(problems: dict[Path, str], parts: Sequence[Part], named: int) -> str:
    total = sum(len(part.files) for part in parts)
    first = "; ".join(f"{file}: {why}" for file, why in list(problems.items())[:named])
    count = f"{len(problems)} of {total} images cannot be read"
    return f"{count}, first {first}" if first else count


def _plan(size: int, source: str) -> str:
    """Return a hash of everything that decides a picture except the file's content."""
    return hashlib.sha256(repr((2, size, source)).encode()).hexdigest()


def _fill(shards: Sequence[Rows], size: int, workers: int, read: Reader) -> dict[Path, str]:
    """Write the rows that are not done; return the reason for each unreadable file."""
    todo = [(rows, row) for rows in shards for row in undone(rows)]
    tasks = [
        _Task(rows.files[row], rows.folder / IMAGES, rows.offset + row * size * size)
        for rows, row in todo
    ]
    total = sum(len(rows.files) for rows in shards)
    if len(tasks) < total:
        print(f"continuing: {total - len(tasks)} of {total} images are done", file=sys.stderr)
    problems: dict[Path, str] = {}
    results = in_order(partial(_make_row, read=read, size=size), tasks, workers)
    bar = tqdm(
        total=total, initial=total - len(tasks), unit=" images", desc="decoding", disable=None
    )
    with closing(results), bar, _saving(shards) as save:
        for (rows, row), result in zip(todo, results, strict=True):
            if result.problem is None:
                rows.done[row, :2] = result.stamp
            else:
                problems[rows.files[row]] = result.problem
            bar.update()
            save()
    return problems


@contextmanager
def _saving(shards: Sequence[Rows]) -> Iterator[Callable[[], None]]:
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
            last = writer.submit(
                save_rows, [rows._replace(done=rows.done.copy()) for rows in shards]
            )

    with ThreadPoolExecutor(1) as writer:
        try:
            yield save
        finally:
            writer.submit(save_rows, shards).result()


def _make_row(task: _Task, read: Reader, size: int) -> _Done:
    """Decode a file and write its pixels; runs in a worker process."""
    try:
        stamp = stamp_of(task.file)
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


def _seal(
    part: Part, rows: Rows, size: int, source: str, problems: dict[Path, str], named: int
) -> None:
    """Finish a shard whose rows are done, leaving out unreadable files."""
    kept = [row for row, file in enumerate(part.files) if file not in problems]
    if not kept:
        raise BadInput(f"{_unreadable(problems, [part], named)}; give files that can be read")
    if len(kept) < len(part.files):
        keep_rows(rows, kept, size)
    seal_shard(
        rows.folder,
        [part.entries[row] for row in kept],
        None if part.labels is None else part.labels[kept],
        size,
        source,
        part.partition,
        part.seed,
    )
