"""Films that are listed but cannot be used: told on stderr, or refused."""

import sys
from collections.abc import Collection, Sequence
from typing import NamedTuple

from common.errors import BadInput

NAMED = 3
"""Most films that a message names."""


class Lost(NamedTuple):
    """Films that cannot be used for one reason.

    Attributes:
        what: The reason, to follow their number.
        names: The films.
        expected: Whether they are left out unasked: the data set is used in part.
    """

    what: str
    names: Collection[str]
    expected: bool


def report_lost(lost: Sequence[Lost], allow_missing: bool, hint: str = "") -> None:
    """Print how many films are left out, and the first ones, on stderr.

    Args:
        lost: The films by reason; groups without films are skipped.
        allow_missing: Whether to leave out those that are not expected too.
        hint: What else may be wrong, for the error message.

    Raises:
        BadInput: Films are lost that are not expected, and ``allow_missing`` is false.
    """
    accidents = _text([group for group in lost if not group.expected])
    if accidents and not allow_missing:
        raise BadInput(f"{accidents}; {hint}--allow-missing leaves them out")
    if told := _text(lost):
        print(f"left out: {told}", file=sys.stderr)


def _text(groups: Sequence[Lost]) -> str:
    return "; ".join(
        f"{len(names)} {what}, first {', '.join(sorted(names)[:NAMED])}"
        for what, names, _ in groups
        if names
    )
