"""``flower-data chexpert``: makes a shard for pretraining, or hospitals, from CheXpert."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from common.errors import BadInput
from common.runtime.cli import parse
from common.runtime.folders import check_free
from common.shard import Entry
from radiographs.read.chexpert import csv_of, find_files, read_films
from radiographs.read.lost import report_lost
from radiographs.write.hospitals import ListedFilm, PublicSettings, write_hospitals


class ChexpertSettings(PublicSettings):
    """Turn CheXpert's films into a shard for pretraining or, with --labels, a hospital."""

    model_config = SettingsConfigDict(
        env_prefix="FLOWER_DATA_", cli_prog_name="flower-data chexpert"
    )

    root: Path = Field(
        description="CheXpert-v1.0 or -small: the folder with train.csv and train/, or with the "
        "folders 'CheXpert-v1.0 batch ...'"
    )
    split: Literal["train", "valid", "both"] = Field("train", description="CSV files to read")


def command(arguments: Sequence[str]) -> None:
    """Run the command.

    Raises:
        BadInput: An option, a CSV file or an image cannot be used, or --out is taken.
        FedCXRError: A decoding process died.
    """
    settings = parse(ChexpertSettings, arguments)
    check_free(settings.out)
    splits = ("train", "valid") if settings.split == "both" else (settings.split,)
    films = [film for split in splits for film in _chosen(settings, split)]
    write_hospitals(settings, films, f"CheXpert {settings.wanted}")


def _chosen(settings: ChexpertSettings, split: str) -> list[ListedFilm]:
    """Return the films of a split that have a wanted view and a file."""
    path = csv_of(settings.root, split)
    listed = read_films(path, split, settings.uncertain if settings.labels else None)
    films = [film for film in listed if settings.wanted in ("both", film.view)]
    if not films:
        raise BadInput(f"{path}: no {settings.wanted} view in it")
    files, lost = find_files(settings.root, split, films)
    hint = f"--root is the folder with {split}/ or with the batches in it"
    report_lost(lost, settings.allow_missing and bool(files), f"{hint}, ")
    if not files:
        raise BadInput(f"{path}: none of its images has a file; {hint}")
    return [
        ListedFilm(files[film.image], Entry(film.image, film.patient, split), film.labels)
        for film in films
        if film.image in files
    ]
