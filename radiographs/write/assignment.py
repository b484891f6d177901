"""Reads and writes a split between hospitals: a CSV of ``image,hospital``."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from common.errors import BadInput, first_problem
from common.net import SiteName
from common.runtime.files import write_whole
from radiographs.read.table import note_once, read_table

COLUMNS = ("image", "hospital")

TEST = "test"
"""Name of the test shard; no hospital may have it."""


def write_assignment(path: Path, images: Sequence[str], hospitals: Sequence[str]) -> None:
    """Write the hospital of each image.

    Raises:
        BadInput: The file cannot be written.
    """
    text = io.StringIO()
    csv.writer(text).writerows([COLUMNS, *zip(images, hospitals, strict=True)])
    try:
        write_whole(path, lambda file: file.write(text.getvalue().encode()))
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from None


def read_assignment(path: Path, images: Sequence[str], allow_missing: bool) -> list[str]:
    """Return the hospital of each image.

    Args:
        path: A CSV in the format of :func:`write_assignment`.
        images: The images to split.
        allow_missing: Ignore lines of other images.

    Raises:
        BadInput: The file cannot be read, misses or repeats an image, has an image that is not in
            ``images``, or an invalid hospital name.
    """
    wanted, seen = set(images), dict[str, int]()
    hospital_of: dict[str, str] = {}
    checked: set[str] = set()
    for line in read_table(path, COLUMNS):
        image, hospital = (line.cells[name] for name in COLUMNS)
        note_once(seen, image, line.where, line.number)
        if hospital not in checked:
            _check_name(line.where, hospital)
            checked.add(hospital)
        if image in wanted:
            hospital_of[image] = hospital
        elif not allow_missing:
            raise BadInput(f"{line.where}: {image} is not an image for training")
    if missing := [image for image in images if image not in hospital_of]:
        raise BadInput(
            f"{path}: {len(missing)} of {len(images)} images for training are not in it, "
            f"first {missing[0]}"
        )
    return [hospital_of[image] for image in images]


def _check_name(where: str, hospital: str) -> None:
    try:
        TypeAdapter(SiteName).validate_python(hospital)
    except ValidationError as error:
        reason = first_problem(error)
        raise BadInput(f"{where}: {hospital!r} cannot be a hospital's name: {reason}") from None
    if hospital == TEST:
        raise BadInput(f"{where}: {TEST!r} is the test shard's name, not a hospital's")
