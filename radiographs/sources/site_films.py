"""Which of the files below a hospital's folder are films for its shard."""

import os
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from common.errors import BadInput
from common.shard import Bytes
from radiographs.read.chest import Wanted
from radiographs.read.decode import Unreadable
from radiographs.read.film_file import Examined, examine
from radiographs.read.site_labels import Label, match
from radiographs.read.view import check_view, told_by_table
from radiographs.sources.assumed import Known
from radiographs.write.parallel import in_order

Refused = dict[PurePosixPath, str]
"""The reason for each refused file, by its path below the folder."""


class Film(NamedTuple):
    """An image for the shard.

    Attributes:
        file: Path relative to the images' folder.
        patient: The hospital's number for the patient.
        labels: uint8, 14, 0, 1 or UNKNOWN; None without labels.
        known: Its patient, and whether its body part and view are told.
        by_table: The patient that the labels tell; empty: none.
        by_header: The patient that the file itself tells; empty: none.
    """

    file: PurePosixPath
    patient: str
    labels: Bytes | None
    known: Known
    by_table: str
    by_header: str


def files_below(root: Path, labels: Path | None) -> tuple[list[Path], Refused]:
    """Return all files below a folder except hidden ones and the labels, and the refused paths.

    Links to folders are not followed: they may lead out of the folder or form a cycle.

    Raises:
        BadInput: There is no such folder, or no file in it.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; --images is the folder of the image files")
    files: list[Path] = []
    refused: Refused = {}

    def refuse(path: str | Path, reason: str) -> None:
        refused[PurePosixPath(Path(path).relative_to(root).as_posix())] = reason

    for at, folders, names in os.walk(
        root, onerror=lambda error: refuse(error.filename, f"folder: {error.strerror}")
    ):
        folder = Path(at)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (folder / name).is_symlink():
                refuse(folder / name, "links to folders are not followed")
        for file in (folder / name for name in names if not name.startswith(".")):
            try:
                is_labels = labels is not None and file.samefile(labels)
                if file.is_file() and not is_labels:
                    files.append(file)
            except FileNotFoundError:
                refuse(file, "broken link")
            except OSError as error:
                refuse(file, str(error.strerror))
    if not files and not refused:
        raise BadInput(f"{root}: no file in it")
    return sorted(files), refused


def choose(
    root: Path,
    files: Sequence[Path],
    labels: Sequence[Label] | None,
    wanted: Wanted,
    workers: int,
) -> tuple[list[Film], Refused]:
    """Return the films for the shard, and the reason for each refused file.

    Args:
        root: Folder of the files.
        files: Below it.
        labels: Lines of the CSV; None: the shard is for pretraining.
        wanted: Which films are wanted.
        workers: Processes that read headers; 0: one for each core.

    Raises:
        BadInput: A line fits several files, or a file several lines.
    """
    relative = [PurePosixPath(file.relative_to(root).as_posix()) for file in files]
    lines = {} if labels is None else match(labels, relative, root)
    films: list[Film] = []
    refused: Refused = {}
    results = in_order(partial(examine, wanted=wanted), files, workers)
    with (
        closing(results),
        tqdm(total=len(files), unit=" files", desc="reading headers", disable=None) as bar,
    ):
        for file, examined in zip(relative, results, strict=True):
            bar.update()
            try:
                films.append(_film(wanted, file, examined, lines.get(file), labels is not None))
            except Unreadable as error:
                refused[file] = str(error)
    _tell_two_sources(films)
    if labels is not None and len(lines) < len(labels):
        print(
            f"{len(labels) - len(lines)} of {len(labels)} lines of the labels name no file below "
            f"{root}",
            file=sys.stderr,
        )
    return films, refused


def _film(
    wanted: Wanted,
    file: PurePosixPath,
    examined: Examined,
    line: Label | None,
    labelled: bool,
) -> Film:
    if examined.problem is not None:
        raise Unreadable(examined.problem)
    if labelled and line is None:
        raise Unreadable("no line in --labels")
    header = examined.header
    told = [] if line is None else told_by_table(line.view, wanted.view_of)
    view = check_view(told, wanted.views) or header.view
    by_table = line.patient if line is not None else ""
    patient = by_table or header.patient
    if not patient and labelled:
        raise Unreadable("no patient, neither in the file nor in --labels")
    patient = patient or _alone(file)
    known = Known(patient, header.body_part, view)
    labels = None if line is None else line.labels
    return Film(file, patient, labels, known, by_table, header.patient)


def _tell_two_sources(films: Sequence[Film]) -> None:
    """Warn where a patient may have become two: one of the labels and another of the files."""
    differ = sum(
        bool(film.by_header) and film.by_table not in ("", film.by_header) for film in films
    )
    alone = sum(bool(film.by_header) and not film.by_table for film in films)
    if differ and alone:
        print(
            f"warning: of {differ} films --labels and the file name different patients, and "
            f"{alone} have theirs from the file alone: a patient with films of both kinds becomes "
            "two, and may be in training and validation at once; fill in the patient of every "
            "line, or of none",
            file=sys.stderr,
        )


def is_alone(film: Film) -> bool:
    """Return whether a film has no known patient and was given one of its own."""
    return film.patient == _alone(film.file)


def _alone(file: PurePosixPath) -> str:
    """Return a patient of its own for a film of no known patient; no PatientID has a NUL."""
    return f"\0{file}"
