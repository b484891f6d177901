"""Finds the films of ChestX-ray14: those of the lists that have a line and a file."""

import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from common.errors import BadInput
from radiographs.read.decode import PICTURES, is_picture
from radiographs.read.lost import Lost, report_lost
from radiographs.read.nih import Row, read_list, read_metadata
from radiographs.read.numbered import in_absent_folders

LAST_FOLDER = 12
"""The NIH's files are in images_001 to images_012."""


class Films(NamedTuple):
    """The films to use.

    Attributes:
        rows: Their lines, in the metadata's order.
        tested: The names on the test list.
        files: The file for each stem; empty without a folder of images.
    """

    rows: list[Row]
    tested: set[str]
    files: dict[str, Path]


def find_films(
    images: Path | None,
    metadata: Path,
    train_list: Path | None,
    test_list: Path | None,
    allow_missing: bool,
) -> Films:
    """Find the films of the lists that have a line in the metadata and a file.

    What a user can mean is allowed and told on stderr: lists that are cut to a part of the
    metadata, absent folders ``images_NNN``, no test films. What can be an accident needs
    ``allow_missing``: listed images without a line, and files missing from a folder that is there.

    Args:
        images: Folder of the files, in itself, ``images``, or ``images_NNN`` with or without an
            inner ``images``; None to use no files.
        metadata: Data_Entry_2017*.csv.
        train_list: train_val_list.txt; None for all images that are not on the test list.
        test_list: test_list.txt; None for no test films.
        allow_missing: Leave out all images that are not everywhere.

    Raises:
        BadInput: Lists, metadata and files are inconsistent. The message gives the number of
            images and the first ones.
    """
    rows = {row.image: row for row in read_metadata(metadata)}
    test = set(read_list(test_list)) if test_list else set()
    train = set(read_list(train_list)) if train_list else rows.keys() - test
    _check_lists(train_list, test_list, rows, train, test)
    if not test:
        print("no test films are listed: there is no test shard", file=sys.stderr)
    listed = train | test
    lost = [
        Lost(
            f"of {len(rows)} images in {metadata} are in no list",
            [name for name in rows if name not in listed],
            expected=True,
        ),
        Lost(
            f"of {len(listed)} listed images have no line in {metadata}",
            listed - rows.keys(),
            expected=False,
        ),
    ]
    files: dict[str, Path] = {}
    if images is not None:
        found = _find_files(images, {Path(name).stem for name in listed})
        files = {stem: file for folder in found.values() for stem, file in folder.items()}
        lost.extend(_without_file(images, listed, found))
    report_lost(lost, allow_missing)
    missing = {name for group in lost for name in group.names}
    nothing = "none of its images is in the metadata and below --images"
    if train <= missing:
        raise BadInput(f"{train_list or metadata}: {nothing}; check that they belong together")
    if test and test <= missing:
        raise BadInput(
            f"{test_list}: {nothing}; check that they belong together, or leave out --test-list"
        )
    return Films([row for name, row in rows.items() if name not in missing], test, files)


def _check_lists(
    train_list: Path | None,
    test_list: Path | None,
    rows: dict[str, Row],
    train: set[str],
    test: set[str],
) -> None:
    """Refuse an image in both lists, and a patient in both."""
    both_lists = f"{train_list or 'all other images'} and {test_list}"
    if both := sorted(train & test):
        raise BadInput(f"{both_lists}: {len(both)} images are in both, first {both[0]}")
    tested = {row.patient for name, row in rows.items() if name in test}
    if shared := [name for name, row in rows.items() if name in train and row.patient in tested]:
        raise BadInput(
            f"{both_lists}: {len({rows[name].patient for name in shared})} patients are in both, "
            f"first that of {shared[0]}; a patient must not be in training and test"
        )


def _find_files(root: Path, stems: set[str]) -> dict[int | None, dict[str, Path]]:
    """Return the file for each stem that has one, by the number of its folder, None for others."""
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; --images is the folder of the image files")
    found: dict[int | None, dict[str, Path]] = {}
    seen: dict[str, Path] = {}
    for number, folder in _folders(root):
        for file in folder.iterdir():
            # The names in the metadata end in .png, whatever a copy holds.
            if file.stem not in stems:
                continue
            if file.suffix.lower() not in PICTURES and not (file.is_file() and is_picture(file)):
                continue
            if file.stem in seen:
                raise BadInput(f"{seen[file.stem]} and {file}: two files for one image")
            seen[file.stem] = found.setdefault(number, {})[file.stem] = file
    return found


def _folders(root: Path) -> Iterator[tuple[int | None, Path]]:
    """Yield the folders that may hold files, with their number."""
    yield None, root
    if (root / "images").is_dir():
        yield None, root / "images"
    for folder in sorted(root.glob("images_*")):
        number = re.fullmatch(r"images_0*(\d+)", folder.name)
        for place in (folder, folder / "images"):
            if place.is_dir():
                yield int(number[1]) if number else None, place


def _without_file(
    images: Path, listed: Collection[str], found: dict[int | None, dict[str, Path]]
) -> list[Lost]:
    """Return the listed images without a file: of absent folders, and others."""
    has_file = {stem for folder in found.values() for stem in folder}
    missing = {Path(name).stem: name for name in listed if Path(name).stem not in has_file}
    numbered = {number: folder for number, folder in found.items() if number is not None}
    absent: set[str] = set()
    if None not in found:
        absent = in_absent_folders(missing, numbered, 1, LAST_FOLDER)
    return [
        Lost(
            f"of {len(listed)} listed images are in folders images_NNN that are not below {images}",
            [name for stem, name in missing.items() if stem in absent],
            expected=True,
        ),
        Lost(
            f"of {len(listed)} listed images have no file below {images}",
            [name for stem, name in missing.items() if stem not in absent],
            expected=False,
        ),
    ]
