"""Reads the CSV file with the labels of a hospital's own films.

The CSV has either ChestX-ray14's columns (``Image Index``, and ``Finding Labels`` joined by ``|``),
or ``image`` and a 0/1 column for each of the 14 findings. Columns of the patient and the view are
optional. Case, blanks and underscores in names do not matter. Other columns are told and not used.
"""

import posixpath
import re
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from common.errors import BadInput
from common.findings import FINDINGS, NO_FINDING
from common.shard import Bytes
from radiographs.read.decode import PICTURES
from radiographs.read.nih import IMAGE, LABELS, PATIENT, VIEW, labels_of
from radiographs.read.table import Line, header_of, note_once, read_table

CELLS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}

HARMLESS = re.compile(r"-?\d(\.\d)?|yes|no|true|false|", re.ASCII | re.IGNORECASE)
"""Cells that a message may quote. After a stray comma, a cell may hold anything."""

SUFFIXES = (".dcm", ".dicom", ".dic", ".ima", *PICTURES)
"""Suffixes that a line may omit. The last number of a UID is not a suffix."""

IMAGE_COLUMNS = (IMAGE, "image", "image name", "image id", "image file", "image path", "path",
                 "file", "file name", "file path", "dicom id")  # fmt: skip
PATIENT_COLUMNS = (PATIENT, "patient", "patient number", "subject", "subject id", "MRN")
VIEW_COLUMNS = (VIEW, "view", "views", "Frontal/Lateral", "projection")
"""Usual names of columns. ``ViewPosition`` is DICOM's keyword, ``Frontal/Lateral`` CheXpert's."""


class Label(NamedTuple):
    """A line of the CSV.

    Attributes:
        where: File and line, for an error message.
        image: The file's name or path below the images' folder, with or without its suffix.
        patient: The hospital's number for the patient; empty if the CSV has none.
        view: For example ``PA``, in capitals; empty if the CSV has none.
        labels: uint8, 14, 0 or 1, in the order of FINDINGS.
    """

    where: str
    image: str
    patient: str
    view: str
    labels: Bytes


def read_labels(path: Path) -> list[Label]:
    """Read a hospital's labels.

    Raises:
        BadInput: The file cannot be read, lacks a column, or a line cannot be parsed. The message
            names file, line and column, and quotes only small numbers, yes and no.
    """
    header = header_of(path)
    image, patient, view = (
        _column(path, header, names) for names in (IMAGE_COLUMNS, PATIENT_COLUMNS, VIEW_COLUMNS)
    )
    if not image:
        raise BadInput(f"{path}: no column {IMAGE!r} or 'image'")
    labelled = _column(path, header, (LABELS,))
    columns = {} if labelled else _finding_columns(path, header)
    used = [name for name in (image, patient, view, labelled, *columns.values()) if name]
    for name in used:
        _column(path, header, (name,))
    if unused := [repr(name) for name in header if name not in used]:
        print(f"{path}: columns that are not used: {', '.join(unused)}", file=sys.stderr)
    labels: list[Label] = []
    seen: dict[str, int] = {}
    for line in read_table(path, used):
        name = line.cells[image].replace("\\", "/")
        if not name:
            raise BadInput(f"{line.where}: {image} is empty")
        note_once(seen, name, line.where, line.number)
        found = _joined(line, labelled) if labelled else _cells(line, columns)
        labels.append(
            Label(
                line.where,
                name,
                line.cells.get(patient, ""),
                line.cells.get(view, "").upper(),
                found,
            )
        )
    return labels


def match(
    labels: Sequence[Label], files: Sequence[PurePosixPath], root: Path | None = None
) -> dict[PurePosixPath, Label]:
    """Match lines to files; files without a line are left out.

    A line names its file by the path below the images' folder or by the file name, with or
    without the suffix. The suffix's case and the Unicode form of accents do not matter, unless
    they tell two files apart.

    Args:
        labels: The lines of the CSV.
        files: Paths relative to the images' folder.
        root: The images' folder; lines may also name paths that begin with it.

    Raises:
        BadInput: A line matches several files, or a file several lines.
    """
    spellings: list[dict[str, list[PurePosixPath]]] = [{}, {}, {}, {}, {}]
    for file in files:
        bare = file.with_suffix("") if file.suffix.lower() in SUFFIXES else file
        names = (str(file), *map(_spelled, (str(file), str(bare), file.name, bare.name)))
        for spelling, name in zip(spellings, names, strict=True):
            spelling.setdefault(name, []).append(file)
    roots = [] if root is None else [str(root), str(root.absolute()), str(root.resolve())]
    found: dict[PurePosixPath, Label] = {}
    for label in labels:
        name = _below(label.image, roots)
        keys = (name, *[_spelled(name)] * 4)
        fitting = next((s[key] for s, key in zip(spellings, keys, strict=True) if key in s), [])
        if len(fitting) > 1:
            raise BadInput(f"{label.where}: fits {len(fitting)} files; name it by its path")
        for file in fitting:
            if file in found:
                raise BadInput(f"{label.where}: the same file as {found[file].where}")
            found[file] = label
    return found


def _below(name: str, roots: Sequence[str]) -> str:
    """Return a path as it is below the images' folder, without ``./``."""
    path = posixpath.normpath(name)
    for root in roots:
        if path.startswith(prefix := f"{posixpath.normpath(root)}/"):
            return path.removeprefix(prefix)
    return path


def _spelled(name: str) -> str:
    """Return a path in Unicode's form NFC, with a known suffix in lower case."""
    stem, suffix = posixpath.splitext(unicodedata.normalize("NFC", name))
    return stem + (suffix.lower() if suffix.lower() in SUFFIXES else suffix)


def _finding_columns(path: Path, header: list[str]) -> dict[str, str]:
    """Return the column of each finding; ignores case, blanks and underscores."""
    names = {_plain(name): name for name in header}
    columns = {f: names[_plain(f)] for f in (*FINDINGS, NO_FINDING) if _plain(f) in names}
    if missing := [finding for finding in FINDINGS if finding not in columns]:
        raise BadInput(
            f"{path}: neither a column {LABELS!r} nor one for each finding; missing: "
            f"{', '.join(missing)}"
        )
    return columns


def _joined(line: Line, column: str) -> Bytes:
    return labels_of(line.where, line.cells[column], quoted=False)


def _cells(line: Line, columns: dict[str, str]) -> Bytes:
    values = {}
    for finding, column in columns.items():
        cell = line.cells[column]
        if cell not in CELLS:
            found = repr(cell) if HARMLESS.fullmatch(cell) else "something else"
            raise BadInput(f"{line.where}: {column} is {found}, not 0 or 1")
        values[finding] = CELLS[cell]
    labels = np.array([values[finding] for finding in FINDINGS], np.uint8)
    if NO_FINDING in values and bool(values[NO_FINDING]) == bool(labels.any()):
        raise BadInput(
            f"{line.where}: {columns[NO_FINDING]} is {values[NO_FINDING]} beside "
            f"{labels.sum()} findings"
        )
    return labels


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace(" ", "")


def _column(path: Path, header: list[str], names: Sequence[str]) -> str:
    """Return the column that has one of the names, empty if none has.

    Raises:
        BadInput: Several columns have one.
    """
    known = {_plain(name) for name in names}
    found = [name for name in header if _plain(name) in known]
    if len(found) > 1:
        raise BadInput(
            f"{path}: columns {' and '.join(map(repr, found))} may mean the same; rename or "
            "remove all but one"
        )
    return found[0] if found else ""
