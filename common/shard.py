"""A shard: a folder of decoded radiographs, memory-mapped, with labels, index and manifest.

::

    images.npy     uint8, N x S x S, grey
    labels.npy     uint8, N x 14, 0, 1 or 255 (unknown), as FINDINGS; absent for pretraining
    index.csv      image, patient, split; one line for each image, in the same order
    manifest.json  format version, counts, size, source, seed, SHA-256 of each file

A shard is written to a temporary folder and renamed when it is complete.
"""

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.array_file import reserve
from common.errors import BadInput, first_problem
from common.findings import FINDINGS, UNKNOWN, count_by_finding
from common.runtime.files import sha256_of, write_whole
from common.runtime.folders import whole_folder
from common.seeds import patient_fraction

if TYPE_CHECKING:
    from torch import Tensor

Bytes = npt.NDArray[np.uint8]

MANIFEST = "manifest.json"
IMAGES = "images.npy"
LABELS = "labels.npy"
INDEX = "index.csv"

SMALLEST = 40
"""Smallest S, in pixels: DenseNet halves the size five times, too often for a smaller crop."""

VALIDATION_FRACTION = 0.1
"""Share of a hospital's patients in validation."""


class Manifest(BaseModel):
    """The content of ``manifest.json``; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1, 2] = Field(2, description="version of the format; 1 has no unknown labels")
    images: int = Field(ge=1, description="N")
    size: int = Field(ge=SMALLEST, description="S, pixels along each side")
    labelled: bool = Field(description="whether there is a labels.npy")
    counts: dict[str, int] | None = Field(description="images with each finding, or null")
    known: dict[str, int] | None = Field(None, description="images where it is known; format 2")
    source: str = Field(description="origin of the images")
    partition: str | None = Field(None, description="how images were split between hospitals")
    seed: int | None = Field(None, description="the seed of synthesis or partition")
    sha256: dict[str, str] = Field(description="SHA-256 of each of the other files")


class Entry(NamedTuple):
    """A line of ``index.csv``."""

    image: str
    patient: str
    split: str


@dataclass(frozen=True)
class Shard:
    """An open shard; images are read from disk on access.

    Attributes:
        path: Folder of the shard.
        manifest: Content of ``manifest.json``, checked against the files.
        images: uint8, N x S x S, a read-only memory map.
        labels: uint8, N x 14, 0, 1 or UNKNOWN; None in a shard for pretraining.
        entries: The N lines of the index.
        resident: A copy of the images in a GPU's memory; None: there is none.
    """

    path: Path
    manifest: Manifest
    images: Bytes
    labels: Bytes | None
    entries: list[Entry]
    resident: "Tensor | None" = None

    def __len__(self) -> int:
        return self.manifest.images

    def labelled(self) -> Bytes:
        """Return the labels, uint8, N x 14: 0, 1 or UNKNOWN.

        Raises:
            BadInput: The shard has none.
        """
        if self.labels is None:
            raise BadInput(f"{self.path}: this shard has no labels; give a labelled shard")
        return self.labels

    def split(self, seed: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return the indices for training and for validation, each ascending.

        A patient's side depends only on (seed, patient): all images of a patient stay together, and
        other changes of the shard do not move them. Images without any known label are left out.

        Raises:
            BadInput: The shard has no labels.
        """
        known = (self.labelled() != UNKNOWN).any(axis=1)
        fractions = {entry.patient: patient_fraction(seed, entry.patient) for entry in self.entries}
        held_out = np.array(
            [fractions[entry.patient] < VALIDATION_FRACTION for entry in self.entries]
        )
        return np.flatnonzero(known & ~held_out), np.flatnonzero(known & held_out)


def open_shard(path: Path) -> Shard:
    """Open a shard and check all of it: hashes, shapes, sizes, labels and index.

    Raises:
        BadInput: There is no shard, it cannot be read, or it differs from its manifest. The
            message names file and remedy.
    """
    try:
        return _open(path)
    except OSError as error:
        raise BadInput(f"{error.filename or path}: cannot be read: {error.strerror}") from None


def _open(path: Path) -> Shard:
    if not (path / MANIFEST).is_file():
        raise BadInput(f"{path}: no shard here ({MANIFEST} is missing); make one with flower-data")
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except ValidationError as error:
        raise BadInput(f"{path / MANIFEST}: {first_problem(error)}; make the shard again") from None
    names = [IMAGES, INDEX, LABELS] if manifest.labelled else [IMAGES, INDEX]
    for name in names:
        _check_hash(path / name, manifest.sha256.get(name))
    n, size = manifest.images, manifest.size
    images = _open_array(path / IMAGES, (n, size, size))
    labels = np.array(_open_array(path / LABELS, (n, len(FINDINGS)))) if manifest.labelled else None
    if labels is not None:
        _check_labels(path / LABELS, labels, [0, 1] if manifest.format == 1 else [0, 1, UNKNOWN])
    return Shard(path, manifest, images, labels, _read_index(path / INDEX, n))


def _check_labels(path: Path, labels: Bytes, allowed: list[int]) -> None:
    wrong = np.argwhere(~np.isin(labels, allowed))
    if len(wrong):
        row, column = wrong[0]
        raise BadInput(
            f"{path}: label {labels[row, column]} for {FINDINGS[column]} in row {row}, not one of "
            f"{allowed}; make the shard again"
        )


def open_for_training(path: Path) -> Shard:
    """Open a shard for training.

    Raises:
        BadInput: As :func:`open_shard`, or an image has the split ``test``.
    """
    shard = open_shard(path)
    tests = sum(entry.split == "test" for entry in shard.entries)
    if tests:
        raise BadInput(
            f"{path}: {tests} of its images have the split 'test'; a model that was trained on "
            "them cannot be tested on them: give another shard"
        )
    return shard


def find_shards(path: Path) -> list[Path]:
    """Return the shard at a path, or the shards one folder below it, by name.

    Raises:
        BadInput: There is none.
    """
    if (path / MANIFEST).is_file():
        return [path]
    shards = [manifest.parent for manifest in sorted(path.glob(f"*/{MANIFEST}"))]
    if not shards:
        raise BadInput(f"{path}: no shard here or one folder below; make some with flower-data")
    return shards


def _check_hash(path: Path, expected: str | None) -> None:
    if not path.is_file():
        raise BadInput(f"{path}: missing, though the manifest lists it; make the shard again")
    found = sha256_of(path)
    if found != expected:
        raise BadInput(
            f"{path}: SHA-256 {found[:12]}... is not the manifest's {str(expected)[:12]}...; "
            "the file was changed or cut: copy the shard or make it again"
        )


def _open_array(path: Path, shape: tuple[int, ...]) -> Bytes:
    """Memory-map an array; nothing is unpickled."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # noqa: BLE001 - numpy parses the header as Python and can raise anything
        raise BadInput(f"{path}: not a whole .npy file; make the shard again") from None
    if array.dtype != np.uint8 or array.shape != shape:
        raise BadInput(
            f"{path}: {array.dtype} {'x'.join(map(str, array.shape))}, but the manifest says "
            f"uint8 {'x'.join(map(str, shape))}; make the shard again"
        )
    return array  # type: ignore[no-any-return]


def _read_index(path: Path, n: int) -> list[Entry]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: not a table: {error}; make the shard again") from None
    if tuple(header) != Entry._fields:
        raise BadInput(f"{path}: the header is not {','.join(Entry._fields)}; make the shard again")
    if len(lines) != n or any(len(line) != len(Entry._fields) for line in lines):
        raise BadInput(f"{path}: not {n} lines of three columns; make the shard again")
    return [Entry(*line) for line in lines]


@contextmanager
def create_shard(
    path: Path,
    *,
    entries: Sequence[Entry],
    labels: Bytes | None,
    size: int,
    source: str,
    partition: str | None = None,
    seed: int | None = None,
) -> Iterator[Bytes]:
    """Create a shard; it appears under its name only when the block ends without an error.

    Args:
        path: A new or empty folder; parents are created.
        entries: N lines of the index.
        labels: uint8, N x 14, 0, 1 or UNKNOWN; None for a shard for pretraining.
        size: S, pixels along each side.
        source: Origin of the images, for the manifest.
        partition: How images were split between hospitals, for the manifest.
        seed: The seed of synthesis or partition, for the manifest.

    Yields:
        The images to fill: a writable memory map, uint8, N x S x S, all 0.

    Raises:
        BadInput: ``path`` is taken or cannot be written.
    """
    with whole_folder(path) as folder:
        reserve(folder / IMAGES, (len(entries), size, size))
        images: np.memmap[Any, np.dtype[np.uint8]] = np.load(folder / IMAGES, mmap_mode="r+")
        yield images
        images.flush()
        seal_shard(folder, entries, labels, size, source, partition, seed)


def seal_shard(
    folder: Path,
    entries: Sequence[Entry],
    labels: Bytes | None,
    size: int,
    source: str,
    partition: str | None,
    seed: int | None,
) -> None:
    """Turn a folder with ``images.npy`` into a shard; syncs all files, the manifest last.

    Args: As :func:`create_shard`.
    """
    names = [IMAGES, INDEX]
    counts = known = None
    if labels is not None:
        names.append(LABELS)
        np.save(folder / LABELS, labels, allow_pickle=False)
        counts, known = count_by_finding(labels == 1), count_by_finding(labels != UNKNOWN)
    with (folder / INDEX).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([Entry._fields, *entries])
    manifest = Manifest(
        images=len(entries),
        size=size,
        labelled=labels is not None,
        counts=counts,
        known=known,
        source=source,
        partition=partition,
        seed=seed,
        sha256={name: sha256_of(folder / name) for name in names},
    )
    for name in names:
        with (folder / name).open("rb") as written:
            os.fsync(written.fileno())
    text = manifest.model_dump_json(indent=2) + "\n"
    write_whole(folder / MANIFEST, lambda file: file.write(text.encode()))
