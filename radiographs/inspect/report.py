"""The report of ``flower-data check``: JSON for programs, text for people.

It names images by shard and row, since file names and patient numbers may identify a patient.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Level = Literal["error", "warning"]

Kind = Literal[
    "damaged",
    "blank",
    "dull",
    "inverted",
    "duplicate",
    "near-duplicate",
    "contradiction",
    "leakage",
    "shared",
    "patients",
    "labels",
    "few",
    "disk",
    "memory",
]

SHOWN = 8
"""Examples of a problem in the text."""

KEPT = 100
"""Examples of a problem in the JSON."""


class Place(BaseModel):
    """The position of an image."""

    model_config = ConfigDict(frozen=True)

    shard: str = Field(description="path of the shard")
    row: int = Field(ge=0, description="row of images.npy, from 0")


class Problem(BaseModel):
    """A problem, and the images that have it."""

    level: Level = Field(description="an error spoils results")
    kind: Kind
    text: str = Field(description="problem and remedy")
    count: int = Field(1, ge=1, description="number of occurrences")
    examples: list[list[Place]] = Field(
        default_factory=list,
        description="groups of images that have it, at most 100",
        max_length=KEPT,
    )


class ShardFacts(BaseModel):
    """Facts about a shard that could be opened."""

    path: str
    images: int
    patients: int
    size: int = Field(description="pixels along each side")
    bytes: int = Field(description="on disk")
    counts: dict[str, int] | None = Field(description="images with each finding, or null")
    known: dict[str, int] | None = Field(
        description="images in which each finding is known, positive or not, or null"
    )


class Needs(BaseModel):
    """Disk and memory, in bytes: needed to train on the largest images, and free."""

    disk: int = Field(description="all shards together")
    disk_free: int = Field(description="on the first shard's disk")
    memory: int = Field(description="training with batches of 64, on a CPU or a GPU")
    memory_free: int = Field(description="of this machine or container")


class Report(BaseModel):
    """The whole report."""

    format: Literal[1] = 1
    shards: list[ShardFacts]
    needs: Needs | None = Field(description="null if no shard could be opened")
    problems: list[Problem]


def lines_of(report: Report) -> Iterator[str]:
    """Yield the report as lines for a person."""
    for shard in report.shards:
        labelled = "labelled" if shard.counts is not None else "without labels"
        yield (
            f"{shard.path}: {shard.images} images of {shard.patients} patients, "
            f"{shard.size} x {shard.size}, {labelled}, {_amount(shard.bytes)}"
        )
        yield from _unknown(shard)
    if report.needs is not None:
        needs = report.needs
        yield (
            f"disk: {_amount(needs.disk)} used, {_amount(needs.disk_free)} free; memory "
            f"to train with batches of 64: {_amount(needs.memory)}, on the GPU if there is one; "
            f"{_amount(needs.memory_free)} free here"
        )
    for problem in report.problems:
        yield f"{problem.level + ':':<8} {problem.kind}: {problem.text}"
        for places in problem.examples[:SHOWN]:
            yield "           " + " = ".join(f"{place.shard} row {place.row}" for place in places)
        if problem.examples and problem.count > SHOWN:
            yield f"           and {problem.count - SHOWN} more"
    if not report.problems:
        yield "no problem found"


def _unknown(shard: ShardFacts) -> Iterator[str]:
    """Yield a line with the findings that are not known in all images of a shard, if any."""
    counts, known = shard.counts or {}, shard.known or {}
    partly = [
        f"{finding} {shard.images - count} ({counts[finding]} of {count} positive)"
        for finding, count in known.items()
        if count < shard.images
    ]
    if partly:
        yield f"{shard.path}: unknown labels: {', '.join(partly)}"


def _amount(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
