"""``flower-data mimic``: makes a shard for pretraining, or hospitals, from MIMIC-CXR-JPG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from common.errors import BadInput
from common.runtime.cli import parse
from common.runtime.folders import check_free
from common.shard import Entry
from radiographs.read.lost import Lost, report_lost
from radiographs.read.mimic import (
    read_films,
    read_study_labels,
    table_of,
    with_view,
    without,
    without_file,
)
from radiographs.write.hospitals import ListedFilm, PublicSettings, write_hospitals


class MimicSettings(PublicSettings):
    """Turn MIMIC-CXR-JPG's films into a shard for pretraining or, with --labels, a hospital."""

    model_config = SettingsConfigDict(env_prefix="FLOWER_DATA_", cli_prog_name="flower-data mimic")

    root: Path = Field(
        description="mimic-cxr-jpg/2.x.0: the folder with files/ and mimic-cxr-2.0.0-*.csv.gz"
    )
    split: Literal["train", "validate", "test", "both"] = Field(
        "train", description="the data set's own splits to take; both: train and validate"
    )


def command(arguments: Sequence[str]) -> None:
    """Run the command.

    Raises:
        BadInput: An option, a table or an image cannot be used, or --out is taken.
        FedCXRError: A decoding process died.
    """
    settings = parse(MimicSettings, arguments)
    check_free(settings.out)
    write_hospitals(settings, _chosen(settings), f"MIMIC-CXR-JPG {settings.wanted}")


def _chosen(settings: MimicSettings) -> list[ListedFilm]:
    """Return the films with a wanted split and view, a file, and labels if wanted."""
    root = settings.root
    listed = read_films(root)
    splits = ("train", "validate") if settings.split == "both" else (settings.split,)
    no_split = Lost(
        f"of {len(listed)} images are not in {table_of(root, 'split')}",
        [film.image for film in listed if not film.split],
        expected=True,
    )
    films, no_view = with_view([f for f in listed if f.split in splits], settings.wanted)
    if not films:
        raise BadInput(f"{table_of(root, 'split')}: no {settings.wanted} view of {settings.split}")
    lost = [no_split, no_view, *without_file(root, films)]
    labels = read_study_labels(root, settings.uncertain) if settings.labels else None
    if labels is not None:
        unlabelled = [film.image for film in films if film.study not in labels]
        where = table_of(root, "chexpert")
        lost.append(Lost(f"of {len(films)} images are of studies not in {where}", unlabelled, True))
    kept = without(films, lost)
    report_lost(lost, settings.allow_missing and bool(kept), "--root is the folder with files/, ")
    if not kept:
        raise BadInput(f"{root}: no image with a file is left; --root is the folder with files/")
    return [
        ListedFilm(
            root / film.image,
            Entry(film.image, film.patient, film.split),
            None if labels is None else labels[film.study],
        )
        for film in kept
    ]
