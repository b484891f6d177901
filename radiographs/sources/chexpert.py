"""``flower-data chexpert``: makes one shard without labels from CheXpert, for pretraining.

Source: Irvin et al., "CheXpert", AAAI 2019; versions v1.0 and v1.0-small have the same layout,
``CheXpert-v1.0[-small]/train/patientNNNNN/studyN/viewN_{frontal,lateral}.jpg``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from common.errors import BadInput
from common.runtime.cli import Settings, parse
from common.runtime.folders import check_free
from common.shard import SMALLEST, Entry
from radiographs.read.table import note_once, read_table
from radiographs.write.convert import Part, convert

Views = Literal["both", "frontal", "lateral"]

PATH = "Path"
VIEW = "Frontal/Lateral"


class ChexpertSettings(Settings):
    """Turn CheXpert's radiographs into a shard for pretraining, without labels."""

    model_config = SettingsConfigDict(
        env_prefix="FLOWER_DATA_", cli_prog_name="flower-data chexpert"
    )

    root: Path = Field(description="CheXpert-v1.0 or -small: the folder with train.csv and train/")
    out: Path = Field(description="new folder of the shard")
    views: Views = Field("both", description="projections to take")
    split: Literal["train", "valid", "both"] = Field("train", description="CSV files to read")
    size: int = Field(256, ge=SMALLEST, description="pixels along each side")
    workers: int = Field(0, ge=0, description="decoding processes; 0: one for each core")
    allow_missing: bool = Field(False, description="leave out listed images that do not exist")


class Film(NamedTuple):
    """A line of ``train.csv`` or ``valid.csv``.

    Attributes:
        image: Path below the data set's folder: ``train/patient00001/study1/view1_frontal.jpg``.
        patient: For example ``patient00001``.
        view: ``frontal`` or ``lateral``.
    """

    image: str
    patient: str
    view: str


def command(arguments: Sequence[str]) -> None:
    """Run the command.

    Raises:
        BadInput: An option, a CSV file or an image cannot be used, or --out is taken.
        FedCXRError: A decoding process died.
    """
    settings = parse(ChexpertSettings, arguments)
    check_free(settings.out)
    splits = ("train", "valid") if settings.split == "both" else (settings.split,)
    films = {split: _chosen(settings, split) for split in splits}
    files = [settings.root / film.image for chosen in films.values() for film in chosen]
    entries = [
        Entry(film.image, film.patient, split) for split, chosen in films.items() for film in chosen
    ]
    convert(
        settings.out,
        [Part("", files, entries, labels=None)],
        size=settings.size,
        source=f"CheXpert {settings.views}",
        workers=settings.workers,
    )
    patients = len({entry.patient for entry in entries})
    print(f"{settings.out}: {len(entries)} images of {patients} patients")


def read_films(root: Path, split: str) -> list[Film]:
    """Read the columns Path and Frontal/Lateral of ``train.csv`` or ``valid.csv``.

    The first part of a path, the name of Stanford's folder, is ignored.

    Raises:
        BadInput: The file cannot be read, or a line is invalid. The message names file and line.
    """
    films: list[Film] = []
    seen: dict[str, int] = {}
    for line in read_table(root / f"{split}.csv", (PATH, VIEW)):
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
        films.append(Film(image, below[1], view))
    return films


def _chosen(settings: ChexpertSettings, split: str) -> list[Film]:
    """Return the films of a split that have a wanted view and a file."""
    films = [f for f in read_films(settings.root, split) if settings.views in ("both", f.view)]
    if not films:
        raise BadInput(f"{settings.root / f'{split}.csv'}: no {settings.views} view in it")
    missing = [film for film in films if not (settings.root / film.image).is_file()]
    if missing:
        text = (
            f"{len(missing)} of {len(films)} images listed in {settings.root / f'{split}.csv'} "
            f"have no file, first {', '.join(film.image for film in missing[:3])}"
        )
        if not settings.allow_missing or len(missing) == len(films):
            raise BadInput(
                f"{text}; --root is the folder with {split}/ in it, --allow-missing leaves them out"
            )
        print(f"left out: {text}", file=sys.stderr)
    gone = {film.image for film in missing}
    return [film for film in films if film.image not in gone]
