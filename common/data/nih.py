"""The files that come with ChestX-ray14: the metadata CSV and the lists of the official split.

Both published headers are read, ``Data_Entry_2017.csv`` and ``Data_Entry_2017_v2020.csv``. Their
brackets are split over two cells (``OriginalImage[Width``, ``Height]``), some copies end in an
empty column and some add columns of their own, so columns are found by name.

Source: Wang et al., "ChestX-ray8", CVPR 2017; https://nihcc.app.box.com/v/ChestXray-NIHCC.
"""

import csv
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO, cast

import numpy as np

from common.data.shard import Bytes
from common.errors import BadInput
from common.findings import FINDINGS, NO_FINDING

IMAGE = "Image Index"
LABELS = "Finding Labels"
PATIENT = "Patient ID"


class Row(NamedTuple):
    """A line of the metadata.

    Attributes:
        image: The image's name, such as ``00000001_000.png``.
        patient: The data set's own number for the patient, as it is written.
        labels: uint8, 14, 0 or 1, in the order of FINDINGS; read-only.
    """

    image: str
    patient: str
    labels: Bytes


def read_metadata(path: Path) -> list[Row]:
    """Read ``Data_Entry_2017*.csv``, plain or gzipped (``.gz``), in the order of its lines.

    Raises:
        BadInput: The file cannot be read, lacks a column, or a line has too few cells, an unknown
            finding, or an image that an earlier line has; names file, line and value.
    """
    rows: list[Row] = []
    lines: dict[str, int] = {}
    with _opened(path) as file:
        reader = csv.reader(file)
        header = next(reader, [])
        columns = [_column(path, header, name) for name in (IMAGE, LABELS, PATIENT)]
        width = max(i for i, name in enumerate(header) if name.strip()) + 1
        for cells in filter(None, reader):
            where = f"{path}, line {reader.line_num}"
            if len(cells) < width:
                raise BadInput(f"{where}: {len(cells)} cells, but the header has {width}")
            image, findings, patient = (cells[column].strip() for column in columns)
            if not image or not patient:
                raise BadInput(f"{where}: {PATIENT if image else IMAGE} is empty")
            if image in lines:
                raise BadInput(f"{where}: {image} is on line {lines[image]} already")
            lines[image] = reader.line_num
            rows.append(Row(image, patient, _labels(where, findings)))
    if not rows:
        raise BadInput(f"{path}: a header and no line")
    return rows


def read_list(path: Path) -> list[str]:
    """Read ``train_val_list.txt`` or ``test_list.txt``: one image name per line.

    Raises:
        BadInput: The file cannot be read, is empty or names an image twice.
    """
    lines: dict[str, int] = {}
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            name = line.strip()
            if name in lines:
                raise BadInput(f"{path}, line {number}: {name} is on line {lines[name]} already")
            if name:
                lines[name] = number
    if not lines:
        raise BadInput(f"{path}: no image is listed")
    return list(lines)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Open a text file; what is wrong with its bytes becomes BadInput."""
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", newline="", encoding="utf-8-sig") as file:
            yield cast(TextIO, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{path}: not a whole gzip file: {error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: not a text file as expected: {error}") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None


def _column(path: Path, header: list[str], name: str) -> int:
    names = [cell.strip() for cell in header]
    if names.count(name) != 1:
        raise BadInput(
            f"{path}: {names.count(name)} columns {name!r}, not one; "
            f"the header is {','.join(names)!r}"
        )
    return names.index(name)


def _labels(where: str, findings: str) -> Bytes:
    """Return uint8, 14, for names joined by ``|``."""
    labels = np.zeros(len(FINDINGS), np.uint8)
    if findings != NO_FINDING:
        for name in findings.split("|"):
            if name == NO_FINDING:
                raise BadInput(f"{where}: {NO_FINDING!r} beside findings: {findings!r}")
            if name not in FINDINGS:
                raise BadInput(f"{where}: unknown finding {name!r}; known: {', '.join(FINDINGS)}")
            labels[FINDINGS.index(name)] = 1
    labels.flags.writeable = False
    return labels
