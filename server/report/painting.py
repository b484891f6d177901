"""What the figures have in common: lines with gaps, bands, and axes that say little.  Draws."""

from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from common.document import Cell, Table
from common.scores import rounded
from server.report.plot import Look

UNDEFINED = "-"

ROW_INCHES = 0.24


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


def line(axes: Axes, points: Mapping[int, float | None], look: Look) -> None:
    """Draw a line over the rounds where it is defined; one point alone gets a marker."""
    known = [(x, y) for x, y in sorted(points.items()) if y is not None]
    if known:
        style = look.line if look.marker or len(known) > 1 else {**look.line, "marker": "o"}
        axes.plot(*zip(*known, strict=True), **style)


def band(axes: Axes, ends: Mapping[int, tuple[float, float] | None], look: Look) -> None:
    """Fill between a lower and an upper end, where both are defined."""
    known = [(x, *pair) for x, pair in sorted(ends.items()) if pair is not None]
    if known:
        x, low, high = zip(*known, strict=True)
        axes.fill_between(x, low, high, color=look.colour, alpha=0.2, linewidth=0)


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
