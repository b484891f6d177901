"""What a header tells of a film: is it of the chest, from which side, and to be shown?"""

import re
from typing import Literal

from pydicom.dataset import Dataset

from radiographs.read.decode import Unreadable

Views = Literal["frontal", "lateral", "both"]

MODALITIES = ("CR", "DX")
CHEST = re.compile("CHEST|THORAX|LUNG")
FRONTAL = ("AP", "PA", "FRONTAL")
LATERAL = ("LL", "RL", "L", "LAT", "LATERAL")

_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
"""A Code String, PS3.5 6.2."""


def check_kind(header: Dataset) -> None:
    """Refuse a header that is not that of a chest film.

    Raises:
        Unreadable: It is something else.
    """
    modality = text(header, "Modality")
    if modality not in MODALITIES:
        raise Unreadable(f"modality {quoted(modality)}, not {' or '.join(MODALITIES)}")
    body_part = text(header, "BodyPartExamined")
    if body_part and not CHEST.search(body_part):
        raise Unreadable(f"body part {quoted(body_part)}, not the chest")
    if text(header, "PresentationIntentType") == "FOR PROCESSING":
        raise Unreadable("raw pixels, for processing and not for presentation")
    if text(header, "BurnedInAnnotation") == "YES":
        raise Unreadable("burned-in annotation, which may name the patient")


def check_view(view: str, views: Views) -> None:
    """Refuse a film with an unwanted projection.

    Args:
        view: The film's ViewPosition; empty if unknown.
        views: The wanted projections.

    Raises:
        Unreadable: The projection is unwanted.
    """
    if not view:
        return
    kind = "frontal" if view in FRONTAL else "lateral" if view in LATERAL else "other"
    if kind != views and not (views == "both" and kind != "other"):
        raise Unreadable(f"view {quoted(view)}, {views} is wanted")


def view_of(header: Dataset) -> str:
    """Return ViewPosition, or the view from ViewCodeSequence, or an empty string."""
    view = text(header, "ViewPosition")
    if view:
        return view
    meaning = " ".join(
        str(item.get("CodeMeaning") or "").lower() for item in header.get("ViewCodeSequence") or []
    )
    if "lateral" in meaning or "oblique" in meaning:
        return "LATERAL" if "lateral" in meaning else "OBLIQUE"
    return ""


def text(header: Dataset, name: str) -> str:
    """Return an element's value in capitals, empty if missing."""
    return str(header.get(name) or "").strip().upper()


def quoted(code: str) -> str:
    """Return a code as a message may quote it: nothing but a Code String, which names nobody."""
    return repr(code) if _CODE.fullmatch(code) else "unknown" if code else "not given"
