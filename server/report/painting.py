"""What the figures have in common: lines with gaps, bands, and axes that say little."""

from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from common.document import Cell, Table
from common.readings import FindingAuc
from common.scores import rounded
from server.report.plot import Look

UNDEFINED = "-"

ROW_INCHES = 0.24

BAND = 0.2
"""Opacity of a band."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], texts: bool = False) -> Table:
    """Return a table of plain texts."""
    cells = [[Cell(text) for text in row] for row in rows]
    return Table([Cell(text) for text in header], cells, texts)


def named(finding: str) -> str:
    """Return a finding's name for people."""
    return finding.replace("_", " ")


def numbers(*values: float | None) -> list[str]:
    """Return texts with three decimals, or dashes."""
    return [rounded(value) for value in values]


def with_counts(of: FindingAuc | None) -> list[str]:
    """Return an AUC, the ends of its interval and its films with and without the finding."""
    if of is None:
        return [UNDEFINED] * 5
    return [*numbers(of.auc, of.low, of.high), str(of.positives), str(of.negatives)]


def line(axes: Axes, points: Mapping[int, float | None], look: Look) -> None:
    """Draw a line over the rounds where it is defined; one point alone is a dot."""
    known = [(x, y) for x, y in sorted(points.items()) if y is not None]
    if known:
        style = look.line if look.marker or len(known) > 1 else {**look.line, "marker": "o"}
        axes.plot(*zip(*known, strict=True), **style)


def band(axes: Axes, ends: Mapping[int, tuple[float, float] | None], look: Look) -> None:
    """Fill between a lower and an upper end, where both are defined."""
    known = [(x, *pair) for x, pair in sorted(ends.items()) if pair is not None]
    if known:
        x, low, high = zip(*known, strict=True)
        axes.fill_between(x, low, high, color=look.colour, alpha=BAND, linewidth=0)


def limits_of(curves: Iterable[Mapping[int, float | None]]) -> tuple[float, float]:
    """Return ends of an axis for all of several curves, with some room."""
    known = [y for points in curves for y in points.values() if y is not None] or [0.0, 1.0]
    low, high = min(known), max(known)
    room = 0.05 * (high - low) or 0.05
    return low - room, high + room


def over_rounds(axes: Axes, rounds: int) -> None:
    """Let the axis across count rounds, from none to all."""
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlim(-0.02 * rounds, 1.02 * rounds)


def upwards(axes: Axes, names: Sequence[str]) -> None:
    """Give each row of a chart its name, the first one on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def height_of(rows: int) -> float:
    """Return the height in inches of a chart with so many rows."""
    return 1.1 + ROW_INCHES * max(rows, 3)
