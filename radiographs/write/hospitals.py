"""Writes the films of a public data set as one shard, or as hospitals with their own patients."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from common.runtime.cli import Settings
from common.shard import SMALLEST, Bytes, Entry
from radiographs.inspect.summary import Summary, tables
from radiographs.read.site_labels import Uncertain
from radiographs.write.convert import Part, convert, tell_left_out
from radiographs.write.partition import iid

Views = Literal["both", "frontal", "lateral"]


class PublicSettings(Settings):
    """Options that all labelled public data sets have in common."""

    out: Path = Field(description="new folder of the shard, or of hospital-00 ...")
    labels: bool = Field(
        False, description="make a hospital, with labels; otherwise a shard for pretraining"
    )
    uncertain: Uncertain = Field(
        "ignore", description="for --labels: what an uncertain label is taken for; ignore: unknown"
    )
    views: Views | None = Field(
        None, description="projections to take; default: frontal with --labels, otherwise both"
    )
    hospitals: int = Field(
        1, ge=1, description="number of hospitals to split the patients between; 1: OUT is a shard"
    )
    seed: int = Field(0, ge=0, description="seed of the split")
    size: int = Field(256, ge=SMALLEST, description="pixels along each side")
    workers: int = Field(0, ge=0, description="decoding processes; 0: one for each core")
    allow_missing: bool = Field(
        False, description="leave out listed images that do not exist or cannot be read"
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if "uncertain" in self.model_fields_set and not self.labels:
            raise ValueError("--uncertain is for --labels")
        if "seed" in self.model_fields_set and self.hospitals == 1:
            raise ValueError("--seed is for --hospitals")
        return self

    @property
    def wanted(self) -> Views:
        """The projections to take."""
        return self.views or ("frontal" if self.labels else "both")


class ListedFilm(NamedTuple):
    """A film of a public data set.

    Attributes:
        file: The image file.
        entry: Its line of the index.
        labels: uint8, 14, 0, 1 or UNKNOWN; None for pretraining.
    """

    file: Path
    entry: Entry
    labels: Bytes | None


def write_hospitals(settings: PublicSettings, films: Sequence[ListedFilm], source: str) -> None:
    """Write ``--out`` and print what is in it.

    With several hospitals, each patient is at one of them, and the positive labels are spread
    evenly.

    Args:
        settings: The command's options.
        films: N films, at least one.
        source: Origin of the films, for the manifests.

    Raises:
        BadInput: A film cannot be read, ``--out`` is taken, or there are too few patients.
        FedCXRError: A decoding process died.
    """
    if settings.hospitals == 1:
        held = {"": list(films)}
    else:
        shown = [
            np.zeros(14, np.uint8) if f.labels is None else (f.labels == 1).astype(np.uint8)
            for f in films
        ]
        patients = [film.entry.patient for film in films]
        homes = iid(np.array(shown), settings.hospitals, settings.seed, patients)
        held = {f"hospital-{i:02d}": [] for i in range(settings.hospitals)}
        for film, home in zip(films, homes.tolist(), strict=True):
            held[f"hospital-{home:02d}"].append(film)
    parts = [_part(settings, name, of_hospital) for name, of_hospital in held.items()]
    problems = convert(
        settings.out,
        parts,
        size=settings.size,
        source=source,
        workers=settings.workers,
        leave_out=settings.allow_missing,
        remedy="leave them out with --allow-missing",
    )
    tell_left_out(problems, parts)
    summaries = [
        _summary(settings, name, [film for film in of_hospital if film.file not in problems])
        for name, of_hospital in held.items()
    ]
    if settings.labels:
        print("\n".join(tables(summaries)))
    for part, summary in zip(parts, summaries, strict=True):
        print(f"{settings.out / part.name}: {summary.images} images of {summary.patients} patients")


def _part(settings: PublicSettings, name: str, films: Sequence[ListedFilm]) -> Part:
    labels = [film.labels for film in films if film.labels is not None]
    return Part(
        name,
        [film.file for film in films],
        [film.entry for film in films],
        np.array(labels) if labels else None,
        "iid by patient" if name else None,
        settings.seed if name else None,
    )


def _summary(settings: PublicSettings, name: str, films: Sequence[ListedFilm]) -> Summary:
    labels = [film.labels for film in films if film.labels is not None]
    patients = len({film.entry.patient for film in films})
    return Summary(
        name or settings.out.name,
        len(films),
        patients,
        settings.size,
        np.array(labels) if labels else None,
    )
