"""The tables and files of MIMIC-CXR-JPG, 2.0.0 and later.

::

    files/p10/p10000032/s50414267/02aa804e-....jpg    p and two digits, patient, study, image
    mimic-cxr-2.0.0-metadata.csv.gz                   patient, study and view of each image
    mimic-cxr-2.0.0-split.csv.gz                      train, validate or test for each image
    mimic-cxr-2.0.0-chexpert.csv.gz                   labels of each study

The tables may be unpacked (``.csv``). Source: Johnson et al., "MIMIC-CXR-JPG, a large publicly
available database of labeled chest radiographs", 2019; https://physionet.org/content/mimic-cxr-jpg.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from common.errors import BadInput
from common.shard import Bytes
from radiographs.read.lost import Lost
from radiographs.read.observations import NEEDED, labels_of_observations
from radiographs.read.site_labels import Uncertain
from radiographs.read.table import header_of, note_once, read_table

IMAGE, PATIENT, STUDY = "dicom_id", "subject_id", "study_id"
VIEW, VIEW_CODE = "ViewPosition", "ViewCodeSequence_CodeMeaning"
SPLIT = "split"

VIEWS = {
    **dict.fromkeys(("PA", "AP", "POSTERO-ANTERIOR", "ANTERO-POSTERIOR"), "frontal"),
    **dict.fromkeys(("LATERAL", "LL", "RL", "XTABLE LATERAL"), "lateral"),
    **dict.fromkeys(("LEFT LATERAL", "RIGHT LATERAL"), "lateral"),
}
"""Projection by ViewPosition or, for images without one, by the meaning of the view's code.

Others, such as oblique, decubitus or swimmer's views, are not taken.
"""

_NAME = re.compile(r"[0-9A-Za-z-]+")


class Film(NamedTuple):
    """An image of the metadata.

    Attributes:
        image: Path below the data set's folder.
        patient: The data set's ``subject_id``.
        study: Its ``study_id``.
        split: ``train``, ``validate`` or ``test``; empty if the table of splits lacks the image.
        view: ViewPosition, or the meaning of the view's code, in capitals; empty if unknown.
    """

    image: str
    patient: str
    study: str
    split: str
    view: str


def table_of(root: Path, name: str) -> Path:
    """Return the path of a table such as ``metadata``: the packed one, if both are there."""
    packed = root / f"mimic-cxr-2.0.0-{name}.csv.gz"
    return packed if packed.is_file() else packed.with_suffix("")


def read_films(root: Path) -> list[Film]:
    """Read metadata and splits.

    Raises:
        BadInput: A table cannot be read, or a line is invalid. The message names file and line.
    """
    splits: dict[str, str] = {}
    for line in read_table(table_of(root, "split"), (IMAGE, SPLIT)):
        splits[line.cells[IMAGE]] = line.cells[SPLIT]
    path = table_of(root, "metadata")
    codes = [VIEW_CODE] if VIEW_CODE in header_of(path) else []
    films: list[Film] = []
    seen: dict[str, int] = {}
    for line in read_table(path, (IMAGE, PATIENT, STUDY, VIEW, *codes)):
        image, patient, study = (line.cells[name] for name in (IMAGE, PATIENT, STUDY))
        for name, cell in ((IMAGE, image), (PATIENT, patient), (STUDY, study)):
            if not _NAME.fullmatch(cell):
                raise BadInput(f"{line.where}: {name} is {cell!r}")
        note_once(seen, image, line.where, line.number)
        view = (line.cells[VIEW] or line.cells.get(VIEW_CODE, "")).upper()
        place = f"files/p{patient[:2]}/p{patient}/s{study}/{image}.jpg"
        films.append(Film(place, patient, study, splits.get(image, ""), view))
    return films


def read_study_labels(root: Path, uncertain: Uncertain) -> dict[str, Bytes]:
    """Read the labels of each study: uint8, 14, 0, 1 or UNKNOWN.

    Raises:
        BadInput: The table cannot be read, or a line is invalid. The message names file and line.
    """
    labels: dict[str, Bytes] = {}
    seen: dict[str, int] = {}
    for line in read_table(table_of(root, "chexpert"), (STUDY, *NEEDED)):
        note_once(seen, line.cells[STUDY], line.where, line.number)
        labels[line.cells[STUDY]] = labels_of_observations(line, uncertain)
    return labels


def with_view(
    films: Sequence[Film], views: Literal["both", "frontal", "lateral"]
) -> tuple[list[Film], Lost]:
    """Return the films with a wanted view, and those whose view is not known.

    Some thousand films give no view, and many of these are laterals: they are taken only if both
    views are wanted.
    """
    if views == "both":
        wanted, unknown = {*VIEWS, ""}, list[str]()
    else:
        wanted = {word for word, view in VIEWS.items() if view == views}
        unknown = [film.image for film in films if not film.view]
    chosen = [film for film in films if film.view in wanted]
    return chosen, Lost(f"of {len(films)} images give no view", unknown, expected=True)


def without_file(root: Path, films: Sequence[Film]) -> tuple[Lost, Lost]:
    """Return the films without a file: those of absent folders ``files/pNN``, and others."""
    groups = {film.image: Path(film.image).parts[1] for film in films}
    there = {group for group in set(groups.values()) if (root / "files" / group).is_dir()}
    absent = [image for image, group in groups.items() if group not in there]
    others = [
        image for image, group in groups.items() if group in there and not (root / image).is_file()
    ]
    return (
        Lost(f"of {len(films)} images are in folders that are not below {root}", absent, True),
        Lost(f"of {len(films)} images have no file below {root}", others, False),
    )


def without(films: Sequence[Film], lost: Collection[Lost]) -> list[Film]:
    """Return the films that are not lost."""
    names = {name for group in lost for name in group.names}
    return [film for film in films if film.image not in names]
