"""Which films are given, and their pixels: read by the code that makes shards."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from common.shard import Bytes
from radiographs.read.chest import Wanted
from radiographs.read.decode import Unreadable
from radiographs.read.extent import extent_of
from radiographs.read.film_file import examine, read_film, why_dull
from radiographs.sources.site_films import Refused, files_below
from radiographs.write.parallel import in_order


class Film(NamedTuple):
    """A film that was read.

    Attributes:
        file: As it was given, or below the folder that was given.
        pixels: uint8, S x S, grey.
    """

    file: Path
    pixels: Bytes


def files_of(given: Sequence[Path]) -> tuple[dict[Path, PurePosixPath], Refused]:
    """Return the files that are given or lie in a given folder, and the refused paths.

    Each file has its path below the folder, or its name if it was given itself.

    Raises:
        BadInput: A given folder is empty.
    """
    files: dict[Path, PurePosixPath] = {}
    refused: Refused = {}
    for path in given:
        if not path.is_dir():
            files[path] = PurePosixPath(path.name)
            continue
        below, others = files_below(path, None)
        files |= {file: PurePosixPath(file.relative_to(path)) for file in below}
        refused |= {PurePosixPath(path / name): reason for name, reason in others.items()}
    return files, refused


def read_films(
    files: Sequence[Path], wanted: Wanted, size: int, workers: int, refused: Refused
) -> Iterator[Film]:
    """Yield the films among some files, in their order; only a few are in memory at a time.

    Args:
        files: Files, which need not be films.
        wanted: Which films are wanted.
        size: S, pixels along each side.
        workers: Decoding processes; 0: one for each core.
        refused: Gets the reason for each file that is not such a film.
    """
    results: Generator[Bytes | str, None, None] = in_order(
        partial(read_one, wanted=wanted, size=size), files, workers
    )
    bar = tqdm(total=len(files), unit=" films", disable=True if len(files) == 1 else None)
    with closing(results), bar:
        for file, result in zip(files, results, strict=True):
            bar.update()
            if isinstance(result, str):
                refused[PurePosixPath(file)] = result
            else:
                yield Film(file, result)


def read_one(file: Path, wanted: Wanted, size: int) -> Bytes | str:
    """Return a film's pixels, uint8, S x S, or why it is refused; runs in a worker process."""
    problem = examine(file, wanted).problem
    if problem is not None:
        return problem
    try:
        return read_film(file, size)
    except Unreadable as error:
        return str(error)
    except OSError as error:
        return str(error.strerror)


def dullness(film: Film) -> str | None:
    """Return why the model can hardly see anything on a film; None if it can."""
    return why_dull(film.file) if extent_of(Image.fromarray(film.pixels)).dull else None
