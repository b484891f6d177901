"""What ``flower-data site`` assumes about films that do not tell it, in numbers."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from radiographs.read.view import Views
from radiographs.read.words import plain

MANY = 10
"""From as many films on, one patient with a tenth of all films is worth a look."""

_PLACEHOLDER = re.compile(
    r"(?:[^\W\d]+ )*(?:anon|deid|pseudon|redact|remov|hidden|匿名)[^\W\d]* ?\d*(?: [^\W\d]+)*"
    r"|(?:(?:unknown|none|null|no|name|patient|test)(?: |$))+|x+|0+|9+|n ?a"
)


class Known(NamedTuple):
    """What is known of a film: its patient's number, and whether body part and view are told."""

    patient: str
    body_part: bool
    view: bool


def assumptions(films: Sequence[Known], views: Views) -> list[str]:
    """Return a line for each thing that was assumed; none names a patient.

    Args:
        films: Those in the shard.
        views: The wanted projections.
    """
    lines: list[str] = []
    total = len(films)
    if count := sum(not film.body_part for film in films):
        lines.append(f"{count} of {total} films give no body part and were taken as chest films")
    if count := sum(not film.view for film in films):
        taken = "frontal or lateral" if views == "both" else views
        lines.append(f"{count} of {total} films give no view and were taken as {taken}")
    for patient, count in Counter(film.patient for film in films).most_common():
        if count > 1 and _PLACEHOLDER.fullmatch(plain(patient)):
            lines.append(
                f"{count} of {total} films have a placeholder such as ANONYMOUS for the patient "
                "and were taken as one patient's; a column of the patient in --labels tells them "
                "apart"
            )
        elif count >= MANY and MANY * count >= total:
            lines.append(
                f"{count} of {total} films have the same patient; if the number is a placeholder, "
                "a column of the patient in --labels tells them apart"
            )
    return lines
