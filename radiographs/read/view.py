r"""From which side a film was taken, by words in many languages, by codes and by orientation.

A header can tell in four places, and a hospital's table in a fifth:

- ViewPosition, a word: ``PA``, ``AP SUPINE``, ``XTABLE LATERAL``, ``POSTERO-ANTERIOR``
- ViewCodeSequence, SNOMED codes: PS3.16 CID 4010, with CID 4011's modifiers
- PatientOrientation, the directions of rows and columns: ``L\F`` is frontal, ``P\F`` lateral
- BodyPartExamined with more than the part: ``CHEST LAT``

No place goes before another: a film is taken if each that tells anything tells of a wanted view.
A place that contradicts another is so refused, unless both views are wanted. A word that is not
known is refused whatever else is told; a code of an unknown scheme only if nothing else is told.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pydicom.dataset import Dataset

from radiographs.read.body_part import is_chest
from radiographs.read.decode import Unreadable
from radiographs.read.view_words import Kind, kind_of
from radiographs.read.words import SNOMED, Code, codes, plain, quoted, readings, remedy, text

Views = Literal["frontal", "lateral", "both"]

OPTION = "--view-of"

_FRONTAL_CODES = {"399033003", "R-10202", "399348003", "R-10206", "272479007", "R-40888"}
"""Frontal, antero-posterior, postero-anterior."""

_LATERAL_CODES = {
    *("399067008", "R-102CD", "399198007", "R-10232", "399173006", "R-10236"),  # lateral, right ...
    *("399260004", "R-10224", "399352003", "R-10228"),  # medial-lateral, lateral-medial
    *("399012007", "G-5220", "399300004", "G-5221"),  # the same in CID 26
    *("399297009", "G-5222", "399118008", "G-5223", "49370004", "G-A104"),  # right, left, lateral
}

_OTHER_MODIFIERS = {
    *("399182000", "R-102C1", "21114003", "G-A472", "399061009", "R-10241"),  # oblique, axial
    *("260450008", "R-40799", "399110001", "R-102C2", "272476000", "R-40885"),  # lordotic, ...
    *("32185000", "F-10318", "102536004", "F-10319", "102535000", "F-10317"),  # decubitus
}


class Told(NamedTuple):
    """What one place tells of the view.

    Attributes:
        what: The place and what it says, as a message may quote it.
        kind: The view; ``other`` is neither frontal nor lateral.
        how: The option that lets it be known otherwise.
        own: Whether it is a code of a maker's own, which counts only if nothing else is told.
    """

    what: str
    kind: Kind
    how: str = ""
    own: bool = False


def told_by_header(header: Dataset, known: Mapping[str, Kind]) -> list[Told]:
    """Return what each place of a header tells; empty if none tells anything."""
    found = [_by_position(header, known), _by_orientation(header), _by_body_part(header, known)]
    for item, code in zip(
        header.get("ViewCodeSequence") or [], codes(header, "ViewCodeSequence"), strict=True
    ):
        found.append(_by_code(header, code, codes(item, "ViewModifierCodeSequence"), known))
    return [told for told in found if told is not None]


def told_by_table(word: str, known: Mapping[str, Kind]) -> list[Told]:
    """Return what a table's cell, in capitals, tells.

    After a stray comma a cell may hold anything: only one word that is known is quoted.
    """
    kind = kind_of(word, known)
    if kind is None:
        return []
    single = kind != "unknown" and " " not in plain(word)
    what = f"view {quoted(word)}" if single else f"the view in --labels is {kind}"
    return [Told(what, kind, f"{OPTION} WORD=frontal")]


def check_view(told: Sequence[Told], views: Views) -> bool:
    """Return whether anything tells of the view; refuse a film with an unwanted one.

    Raises:
        Unreadable: A place tells of an unwanted view, or in a word or code that is not known.
    """
    plainly = [one for one in told if not one.own]
    for one in plainly or told:
        if one.kind == "unknown":
            what = one.what if one.what.endswith("unknown") else f"{one.what}, not known"
            raise Unreadable(f"{what}; if it is frontal: {one.how}")
        if one.kind != views and not (views == "both" and one.kind in ("frontal", "lateral")):
            against = next((a.what for a in plainly if a.kind == views), "")
            beside = f", although another field tells of it: {against}" if against else ""
            raise Unreadable(f"{one.what}, {views} is wanted{beside}")
    return bool(told)


def _by_position(header: Dataset, known: Mapping[str, Kind]) -> Told | None:
    words = readings(header, "ViewPosition")
    kind = _first_kind(words, known)
    if kind is None:
        return None
    how = remedy(OPTION, words[0], "WORD=frontal", header)
    return Told(f"view {quoted(words[0], header)}", kind, how)


def _by_orientation(header: Dataset) -> Told | None:
    """Tell by the first letters of rows and columns, PS3.3 C.7.6.1.1.1.

    The first letter is the main direction. A row or column between left-right and front-back is
    an oblique view; a tilt towards head or foot, or of the direction from head to foot, is none.
    """
    orientation = text(header, "PatientOrientation")
    parts = [part for part in orientation.split("\\") if re.fullmatch("[APLRHF]{1,3}", part)]
    across, along = (
        [part for part in parts if part[0] in directions] for directions in ("LR", "AP")
    )
    if not across and not along:
        return None
    kind: Kind = "lateral" if along else "frontal"
    if (across and along) or any(
        {*part} & {*"LR"} and {*part} & {*"AP"} for part in across + along
    ):
        kind = "other"
    return Told(f"patient orientation {'/'.join(parts)}", kind)


def _by_body_part(header: Dataset, known: Mapping[str, Kind]) -> Told | None:
    words = readings(header, "BodyPartExamined")
    kind = _first_kind([word for word in words if is_chest(word)], known)
    if kind is None or kind == "unknown":
        return None
    return Told(f"body part {quoted(words[0], header)}", kind)


def _first_kind(words: Sequence[str], known: Mapping[str, Kind]) -> Kind | None:
    """Return the first known view among readings of an element; None if all say nothing."""
    kinds = [kind for word in words if (kind := kind_of(word, known)) is not None]
    return next((kind for kind in kinds if kind != "unknown"), kinds[0] if kinds else None)


def _by_code(
    header: Dataset, code: Code, modifiers: Sequence[Code], known: Mapping[str, Kind]
) -> Told | None:
    what = f"view code {quoted(code.value, header)}"
    how = remedy(OPTION, code.value, "WORD=frontal", header)
    if not code.value:
        kind = kind_of(code.meaning, known)
        return None if kind is None else Told(f"view {quoted(kind.upper())}", kind, how)
    if plain(code.value) in known:
        return Told(what, known[plain(code.value)], how)
    if code.scheme not in SNOMED:
        return Told(what, "unknown", how, own=True)
    if any(modifier.value in _OTHER_MODIFIERS for modifier in modifiers):
        return Told(f"{what} with a modifier", "other", how)
    if code.value in _FRONTAL_CODES:
        return Told(what, "frontal", how)
    return Told(what, "lateral" if code.value in _LATERAL_CODES else "other", how)
