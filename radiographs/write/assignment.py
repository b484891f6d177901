"""Reads and writes a split between hospitals: a CSV of ``image,hospital``."""

import csv
import io
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from common.errors import BadInput, first_problem
from common.net import SiteName
from common.runtime.files import write_whole
from radiographs.read.table import note_once, read_table

COLUMNS = ("image", "hospital")

TEST = "test"
"""Name of the test shard; only lines of images on the test list may have it."""


def check_folder(path: Path, out: Path | None) -> None:
    """Check before the work that :func:`write_assignment` can write a file after it.

    Args:
        path: The file.
        out: A folder that the work makes; None: it makes none.

    Raises:
        BadInput: The file's folder is not there, or may not be written.
    """
    folder = path.parent
    made = out is not None and folder.resolve() == out.resolve()
    if not made and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise BadInput(
            f"{folder}: no folder, or one that may not be written; give another --assignment"
        )


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


def read_assignment(
    path: Path, images: Sequence[str], tested: Collection[str], allow_missing: bool
) -> list[str]:
    """Return the hospital of each image.

    The file may also have images of the test list, as ``test`` or at a hospital. The test list
    decides for them: their number at hospitals is printed on stderr.

    Args:
        path: A CSV in the format of :func:`write_assignment`.
        images: The images to split.
        tested: The images on the test list.
        allow_missing: Ignore lines of other images.

    Raises:
        BadInput: The file cannot be read, misses or repeats an image, has an image that is in
            neither ``images`` nor ``tested``, or an invalid hospital name.
    """
    wanted, seen = set(images), dict[str, int]()
    hospital_of: dict[str, str] = {}
    checked: set[str] = set()
    ignored: list[str] = []
    for line in read_table(path, COLUMNS):
        image, hospital = (line.cells[name] for name in COLUMNS)
        note_once(seen, image, line.where, line.number)
        if image not in wanted and image not in tested:
            if allow_missing:
                continue
            raise BadInput(
                f"{line.where}: {image} is in neither list; --allow-missing ignores such lines"
            )
        if image in tested and hospital == TEST:
            continue
        if hospital not in checked:
            _check_name(line.where, hospital)
            checked.add(hospital)
        if image in wanted:
            hospital_of[image] = hospital
        else:
            ignored.append(image)
    if missing := [image for image in images if image not in hospital_of]:
        raise BadInput(
            f"{path}: {len(missing)} of {len(images)} images for training are not in it, "
            f"first {missing[0]}; add a line for each"
        )
    if ignored:
        print(
            f"{path}: {len(ignored)} images of the test list are given to hospitals, "
            f"first {ignored[0]}; they stay in the test shard",
            file=sys.stderr,
        )
    return [hospital_of[image] for image in images]


def _check_name(where: str, hospital: str) -> None:
    try:
        TypeAdapter(SiteName).validate_python(hospital)
    except ValidationError as error:
        reason = first_problem(error)
        raise BadInput(f"{where}: {hospital!r} cannot be a hospital's name: {reason}") from None
    if hospital == TEST:
        raise BadInput(
            f"{where}: {TEST!r} is the test shard's name, not a hospital's; give a training image "
            "to a hospital, or move it to the test list"
        )
