"""What a header tells of a film: is it of the chest, from a wanted side, and to be shown?

Absent, not known and known are three different things: a film whose header gives no body part or
no view is taken, and counted; one whose header gives a word that is not known is refused, with
the option that lets it be known.
"""

from collections.abc import Mapping
from typing import NamedTuple

from pydicom.dataset import Dataset

from radiographs.read.body_part import check_body_part
from radiographs.read.decode import Unreadable
from radiographs.read.view import Views, check_view, told_by_header
from radiographs.read.view_words import Kind
from radiographs.read.words import quoted, text

MODALITIES = ("CR", "DX")


class Wanted(NamedTuple):
    """Which films are taken.

    Attributes:
        views: The wanted projections.
        body_parts: More words and codes for the chest, as `words.plain` returns them.
        view_of: More words and codes for views, likewise, with the view of each.
    """

    views: Views
    body_parts: frozenset[str] = frozenset()
    view_of: Mapping[str, Kind] = {}


class Header(NamedTuple):
    """What the header of a chest film tells.

    Attributes:
        patient: PatientID, empty if missing.
        body_part: Whether it tells that the film is of the chest.
        view: Whether it tells of the view.
    """

    patient: str
    body_part: bool
    view: bool


def check_header(header: Dataset, wanted: Wanted) -> Header:
    """Refuse a header that is not that of a wanted chest film.

    Raises:
        Unreadable: It is something else.
    """
    modality = text(header, "Modality")
    if modality not in MODALITIES:
        raise Unreadable(f"modality {quoted(modality, header)}, not {' or '.join(MODALITIES)}")
    body_part = check_body_part(header, wanted.body_parts)
    if text(header, "PresentationIntentType") == "FOR PROCESSING":
        raise Unreadable("raw pixels, for processing and not for presentation")
    if text(header, "BurnedInAnnotation") == "YES":
        raise Unreadable("burned-in annotation, which may name the patient")
    view = check_view(told_by_header(header, wanted.view_of), wanted.views)
    return Header(str(header.get("PatientID") or "").strip(), body_part, view)
