"""What pictures in a terminal are made of: bars, sparklines, tables and text that does no harm."""

from collections.abc import Sequence
from itertools import pairwise

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

LEVELS = "▁▂▃▄▅▆▇█"
PLAIN_LEVELS = "_.-=+*%#"


def text(content: str, style: str = "") -> Text:
    """Return text without markup; what could control a terminal becomes a question mark."""
    return Text("".join(c if c.isprintable() else "?" for c in content), style)


def bar(share: float, width: int, plain: bool = False) -> Text:
    """Return a bar, readable without colours too.

    Args:
        share: That is full, from 0 to 1.
        width: Columns.
        plain: For terminals that have ASCII alone.
    """
    full = int(share * width)
    done, rest = ("#", ".") if plain else ("█", "░")
    return Text(done * full, "green") + Text(rest * (width - full), "dim")


def sparkline(values: Sequence[float | None], width: int, plain: bool = False) -> Text:
    """Return a curve of one line, from its own least to its own largest value.

    Args:
        values: None where there is none.
        width: Columns at most; more values are averaged in groups of nearly equal size.
        plain: For terminals that have ASCII alone.
    """
    levels = PLAIN_LEVELS if plain else LEVELS
    points = _averaged(values, width)
    known = [value for value in points if value is not None]
    if not known:
        return Text("")
    low, high = min(known), max(known)
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return Text(
        "".join(" " if value is None else levels[round((value - low) * scale)] for value in points),
        "cyan",
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[RenderableType]]) -> Table:
    """Return a table whose columns are as wide as they must be; the first one yields.

    Args:
        headings: Of the columns; what is in those that begin with ``>`` stands on the right.
        rows: Of it.
    """
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(
            heading.lstrip(">"),
            justify="right" if heading.startswith(">") else "left",
            no_wrap=bool(made.columns),
            overflow="ellipsis",
        )
    for row in rows:
        made.add_row(*row)
    return made


def _averaged(values: Sequence[float | None], width: int) -> list[float | None]:
    if len(values) <= width:
        return list(values)
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    groups = [values[a:b] for a, b in pairwise(edges)]
    return [_mean([value for value in group if value is not None]) for group in groups]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
