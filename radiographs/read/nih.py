"""The files that come with ChestX-ray14: the metadata CSV and the lists of the official split.

Reads both published versions, ``Data_Entry_2017.csv`` and ``Data_Entry_2017_v2020.csv``. Columns
are found by name: headers have brackets split over two cells (``OriginalImage[Width``,
``Height]``), and some copies have an empty last column or additional columns. Sex and age are not
read, so ``Patient Gender`` and ``Patient Sex`` are both accepted.

Source: Wang et al., "ChestX-ray8", CVPR 2017; https://nihcc.app.box.com/v/ChestXray-NIHCC.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import BadInput
from common.findings import FINDINGS, NO_FINDING
from common.shard import Bytes
from radiographs.read.table import note_once, opened, read_table

IMAGE = "Image Index"
LABELS = "Finding Labels"
PATIENT = "Patient ID"
VIEW = "View Position"


class Row(NamedTuple):
    """A line of the metadata.

    Attributes:
        image: File name of the image, such as ``00000001_000.png``.
        patient: The data set's number for the patient, unchanged.
        labels: uint8, 14, 0 or 1, in the order of FINDINGS; read-only.
    """

    image: str
    patient: str
    labels: Bytes


def read_metadata(path: Path) -> list[Row]:
    """Read ``Data_Entry_2017*.csv``, plain or gzipped (``.gz``), in the order of its lines.

    Raises:
        BadInput: The file cannot be read or lacks a column; or a line has too few cells, an
            unknown finding or the image of an earlier line. The message names file, line and
            value.
    """
    rows: list[Row] = []
    seen: dict[str, int] = {}
    for line in read_table(path, (IMAGE, LABELS, PATIENT)):
        image, findings, patient = (line.cells[name] for name in (IMAGE, LABELS, PATIENT))
        if not image or not patient:
            raise BadInput(f"{line.where}: {PATIENT if image else IMAGE} is empty")
        note_once(seen, image, line.where, line.number)
        rows.append(Row(image, patient, labels_of(line.where, findings)))
    return rows


def read_list(path: Path) -> list[str]:
    """Read ``train_val_list.txt`` or ``test_list.txt``: one image name per line.

    Raises:
        BadInput: The file cannot be read or names an image twice.
    """
    lines: dict[str, int] = {}
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            if name := line.strip():
                note_once(lines, name, f"{path}, line {number}", number)
    return list(lines)


def labels_of(where: str, findings: str, quoted: bool = True) -> Bytes:
    """Parse names of findings joined by ``|`` into labels: uint8, 14, 0 or 1, read-only.

    Args:
        where: File and line, for an error message.
        findings: For example ``Mass|Edema``.
        quoted: Whether an error message may quote the cell. At a hospital it may be a name.

    Raises:
        BadInput: A name is unknown, or ``No Finding`` is combined with a finding.
    """
    labels = np.zeros(len(FINDINGS), np.uint8)
    if findings != NO_FINDING:
        for name in findings.split("|"):
            if name == NO_FINDING:
                raise BadInput(f"{where}: {NO_FINDING!r} beside findings")
            if name not in FINDINGS:
                what = f" {name!r}" if quoted else ""
                raise BadInput(f"{where}: unknown finding{what}; known: {', '.join(FINDINGS)}")
            labels[FINDINGS.index(name)] = 1
    labels.flags.writeable = False
    return labels
