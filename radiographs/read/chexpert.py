"""The CSV files and folders of CheXpert, v1.0 and v1.0-small.

Either all is in one folder, or in the folders of Stanford's archives::

    train.csv                                  CheXpert-v1.0 batch 1 (validate & csv)/train.csv
    valid.csv                                  CheXpert-v1.0 batch 1 (validate & csv)/valid.csv
    valid/patient64541/study1/view1_...jpg     CheXpert-v1.0 batch 1 (validate & csv)/valid/...
    train/patient00001/study1/view1_...jpg     CheXpert-v1.0 batch 2 (train 1)/patient00001/...
                                               CheXpert-v1.0 batch 3 (train 2)/patient21514/...
                                               CheXpert-v1.0 batch 4 (train 3)/patient43018/...

A path in the CSV files is ``CheXpert-v1.0[-small]/train/patient00001/study1/view1_frontal.jpg`` in
both. Source: Irvin et al., "CheXpert", AAAI 2019.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from common.errors import BadInput
from common.shard import Bytes
from radiographs.read.lost import Lost
from radiographs.read.numbered import in_absent_folders
from radiographs.read.observations import NEEDED, labels_of_observations
from radiographs.read.site_labels import Uncertain
from radiographs.read.table import note_once, read_table

PATH = "Path"
VIEW = "Frontal/Lateral"

TRAIN_BATCHES = (2, 4)
"""First and last number of the folders with the patients of ``train``, in order."""


class Film(NamedTuple):
    """A line of ``train.csv`` or ``valid.csv``.

    Attributes:
        image: Path below the data set's folder: ``train/patient00001/study1/view1_frontal.jpg``.
        patient: For example ``patient00001``.
        view: ``frontal`` or ``lateral``.
        labels: uint8, 14, 0, 1 or UNKNOWN; None if not asked for.
    """

    image: str
    patient: str
    view: str
    labels: Bytes | None


def csv_of(root: Path, split: str) -> Path:
    """Return the path of ``train.csv`` or ``valid.csv``: in the folder, or in a batch's."""
    name = f"{split}.csv"
    inside = [folder / name for _, folder in _batches(root) if (folder / name).is_file()]
    return inside[0] if inside and not (root / name).is_file() else root / name


def read_films(path: Path, split: str, uncertain: Uncertain | None = None) -> list[Film]:
    """Read ``train.csv`` or ``valid.csv``.

    The first part of a path, the name of Stanford's folder, is ignored.

    Args:
        path: The CSV file.
        split: ``train`` or ``valid``.
        uncertain: What an uncertain label is taken for; None to read no labels.

    Raises:
        BadInput: The file cannot be read, or a line is invalid. The message names file and line.
    """
    films: list[Film] = []
    seen: dict[str, int] = {}
    for line in read_table(path, (PATH, VIEW, *(NEEDED if uncertain else ()))):
        parts = PurePosixPath(line.cells[PATH]).parts
        below = parts[parts.index(split) :] if split in parts else ()
        if len(below) != 4 or ".." in parts:
            raise BadInput(
                f"{line.where}: {PATH} is {line.cells[PATH]!r}; expected "
                f".../{split}/patientNNNNN/studyN/viewN_frontal.jpg"
            )
        view = line.cells[VIEW].lower()
        if view not in ("frontal", "lateral"):
            raise BadInput(f"{line.where}: {VIEW} is {view!r}; expected Frontal or Lateral")
        image = "/".join(below)
        note_once(seen, image, line.where, line.number)
        labels = labels_of_observations(line, uncertain) if uncertain else None
        films.append(Film(image, below[1], view, labels))
    return films


def find_files(
    root: Path, split: str, films: list[Film]
) -> tuple[dict[str, Path], tuple[Lost, Lost]]:
    """Return the file of each image that has one, and the images that have none.

    Images of a batch's folder that is not there are expected to be lost.
    """
    homes: dict[str, Path] = {}
    held: dict[int | None, set[str]] = {}
    for number, place in _places(root, split):
        for patient in place.iterdir():
            homes.setdefault(patient.name, place)
            held.setdefault(number, set()).add(patient.name)
    files = {
        film.image: homes[film.patient].joinpath(*PurePosixPath(film.image).parts[1:])
        for film in films
        if film.patient in homes
    }
    files = {image: file for image, file in files.items() if file.is_file()}
    missing = {film.image: film.patient for film in films if film.image not in files}
    numbered = {number: patients for number, patients in held.items() if number is not None}
    absent: set[str] = set()
    if numbered and None not in held and split == "train":
        absent = in_absent_folders(set(missing.values()), numbered, *TRAIN_BATCHES)
    path = csv_of(root, split)
    of_absent = [image for image, patient in missing.items() if patient in absent]
    others = [image for image, patient in missing.items() if patient not in absent]
    return files, (
        Lost(f"of {len(films)} images listed in {path} are in absent batches", of_absent, True),
        Lost(f"of {len(films)} images listed in {path} have no file", others, False),
    )


def _batches(root: Path) -> list[tuple[int, Path]]:
    """Return the numbers and folders of Stanford's archives."""
    found = [(re.search(r" batch (\d+) \(", path.name), path) for path in root.glob("* batch *")]
    return sorted((int(match[1]), path) for match, path in found if match and path.is_dir())


def _places(root: Path, split: str) -> Iterator[tuple[int | None, Path]]:
    """Yield the folders that may hold patients, with the number of their batch."""
    if (root / split).is_dir():
        yield None, root / split
    for number, folder in _batches(root):
        if (folder / split).is_dir():
            yield number, folder / split
        if split == "train" and TRAIN_BATCHES[0] <= number <= TRAIN_BATCHES[1]:
            yield number, folder
