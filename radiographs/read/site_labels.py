"""Reads the CSV file with the labels of a hospital's own films.

The CSV has either ChestX-ray14's columns (``Image Index``, and ``Finding Labels`` joined by ``|``),
or ``image`` and a 0/1 column for each of the 14 findings. Columns of the patient and the view are
optional. Only letters and digits of names matter, not their case. Other columns are told and not
used.

An empty cell is unknown, and -1 uncertain, as CheXpert's and MIMIC-CXR's labellers write them.
"""

import posixpath
import re
import sys
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np

from common.errors import BadInput
from common.findings import FINDINGS, NO_FINDING, UNKNOWN
from common.shard import Bytes
from radiographs.read.decode import PICTURES
from radiographs.read.nih import IMAGE, LABELS, PATIENT, VIEW, labels_of
from radiographs.read.table import Line, header_of, note_once, read_table

CELLS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "": UNKNOWN}

UNCERTAIN = ("-1", "-1.0")

Uncertain = Literal["ignore", "ones", "zeros"]
"""The label of an uncertain cell: unknown, 1 or 0.

The policies U-Ignore, U-Ones and U-Zeros of Irvin et al., "CheXpert: A Large Chest Radiograph
Dataset with Uncertainty Labels and Expert Comparison", AAAI 2019.
"""

LABEL_OF_UNCERTAIN: dict[Uncertain, int] = {"ignore": UNKNOWN, "ones": 1, "zeros": 0}

HARMLESS = re.compile(r"-?\d(\.\d)?|yes|no|true|false", re.ASCII | re.IGNORECASE)
"""Cells that a message may quote. After a stray comma, a cell may hold anything."""

SUFFIXES = (".dcm", ".dicom", ".dic", ".ima", *PICTURES)
"""Suffixes that a line may omit. The last number of a UID is not a suffix."""

IMAGE_COLUMNS = (IMAGE, "image", "image name", "image id", "image file", "image path", "path",
                 "file", "file name", "file path", "dicom id")  # fmt: skip
PATIENT_COLUMNS = (PATIENT, "patient", "patient number", "pat id", "PID", "subject", "subject id",
                   "MRN")  # fmt: skip
VIEW_COLUMNS = (VIEW, "view", "views", "view pos", "view type", "Frontal/Lateral", "projection")
"""Usual names of columns. ``ViewPosition`` is DICOM's keyword, ``Frontal/Lateral`` CheXpert's."""

VIEW_CODE_COLUMNS = ("ViewCodeSequence_CodeMeaning",)
"""MIMIC-CXR-JPG's, beside ``ViewPosition``: read if there is no other."""


class Label(NamedTuple):
    """A line of the CSV.

    Attributes:
        where: File and line, for an error message.
        image: The file's name or path below the images' folder, with or without its suffix.
        patient: The hospital's number for the patient; empty if the CSV has none.
        view: For example ``PA``, in capitals; empty if the CSV has none.
        labels: uint8, 14, 0, 1 or UNKNOWN, in the order of FINDINGS.
    """

    where: str
    image: str
    patient: str
    view: str
    labels: Bytes


def read_labels(
    path: Path,
    unlabelled: Collection[str] = (),
    uncertain: Uncertain = "ignore",
    meant: Mapping[str, str] | None = None,
) -> list[Label]:
    """Read a hospital's labels.

    Args:
        path: The CSV file.
        unlabelled: Findings whose column may be missing; they are then unknown.
        uncertain: What an uncertain cell is taken for.
        meant: The finding that a column of another name means, by that name.

    Raises:
        BadInput: The file cannot be read, lacks a column, or a line cannot be parsed. The message
            names file, line and column, and quotes only small numbers, yes and no.
    """
    header = header_of(path)
    image, patient, view = (
        _column(path, header, names) for names in (IMAGE_COLUMNS, PATIENT_COLUMNS, VIEW_COLUMNS)
    )
    view = view or _column(path, header, VIEW_CODE_COLUMNS)
    if not image:
        raise BadInput(
            f"{path}: no column of the file; give it one of the names {', '.join(IMAGE_COLUMNS)}"
        )
    labelled = _column(path, header, (LABELS,))
    if labelled and unlabelled:
        raise BadInput(
            f"{path}: a column {labelled!r} cannot leave a finding unknown; for --allow-unlabelled "
            "give a column for each other finding"
        )
    if labelled and meant:
        raise BadInput(f"{path}: has a column {labelled!r}; --map is for a column for each finding")
    columns = {} if labelled else _finding_columns(path, header, unlabelled, meant or {})
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
        if labelled:
            found = _joined(line, labelled)
        else:
            found = _cells(line, columns, LABEL_OF_UNCERTAIN[uncertain])
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


def finding_named(name: str) -> str:
    """Return the finding of a name; only its letters and digits matter.

    Raises:
        ValueError: There is none.
    """
    by_name = {_plain(finding): finding for finding in FINDINGS}
    if _plain(name) not in by_name:
        raise ValueError(f"{name!r} is no finding; give some of {', '.join(FINDINGS)}")
    return by_name[_plain(name)]


def _finding_columns(
    path: Path, header: list[str], unlabelled: Collection[str], meant: Mapping[str, str]
) -> dict[str, str]:
    """Return the column of each finding that has one; only letters and digits matter."""
    names = {_plain(name): name for name in header}
    mapped: dict[str, str] = {}
    for name, finding in meant.items():
        if _plain(name) not in names:
            raise BadInput(f"{path}: no column {name!r}, which --map names")
        mapped[finding] = names.pop(_plain(name))
    columns = {f: names[_plain(f)] for f in (*FINDINGS, NO_FINDING) if _plain(f) in names}
    if twice := sorted(columns.keys() & mapped.keys()):
        raise BadInput(
            f"{path}: two columns for {twice[0]}: {columns[twice[0]]!r}, and by --map "
            f"{mapped[twice[0]]!r}; remove one of them"
        )
    columns |= mapped
    missing = [f for f in FINDINGS if f not in columns and f not in unlabelled]
    if missing:
        raise BadInput(
            f"{path}: neither a column {LABELS!r} nor one for each finding; missing: "
            f"{', '.join(missing)}; if nobody looked for these: --allow-unlabelled "
            f"{','.join(missing)}; if they have other names: --map"
        )
    return columns


def _joined(line: Line, column: str) -> Bytes:
    return labels_of(line.where, line.cells[column], quoted=False)


def _cells(line: Line, columns: dict[str, str], label_of_uncertain: int) -> Bytes:
    values = dict.fromkeys((*FINDINGS, NO_FINDING), UNKNOWN)
    for finding, column in columns.items():
        cell = line.cells[column]
        if cell in UNCERTAIN:
            values[finding] = UNKNOWN if finding == NO_FINDING else label_of_uncertain
        elif cell in CELLS:
            values[finding] = CELLS[cell]
        else:
            found = repr(cell) if HARMLESS.fullmatch(cell) else "something else"
            raise BadInput(f"{line.where}: {column} is {found}, not 0, 1, -1 or empty")
    no_finding = values.pop(NO_FINDING)
    labels = np.array(list(values.values()), np.uint8)
    shown = int((labels == 1).sum())
    # What it says is checked, but fills no empty cell: labellers differ in what it covers.
    if (no_finding == 1 and shown) or (no_finding == 0 and not labels.any()):
        raise BadInput(
            f"{line.where}: {columns[NO_FINDING]} is {no_finding} beside {shown} findings"
        )
    return labels


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


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
