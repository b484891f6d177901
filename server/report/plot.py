"""A figure of the report: panels that fit a phone on the page, one picture as a file.

Imports matplotlib.
"""

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from common.document import Figure, Table
from common.drawing import Format, saved, styled, svg_of

COLOURS = {
    "#000000": "currentColor",
    "#ffffff": "var(--paper)",
    "#767676": "var(--muted)",
    "#0072b2": "var(--blue)",
    "#d55e00": "var(--red)",
    "#009e73": "var(--green)",
    "#cc79a7": "var(--pink)",
    "#e69f00": "var(--gold)",
    "#56b4e9": "var(--sky)",
}
"""What is drawn with, after Okabe and Ito, and the page's colours for it, light and dark."""

INK, PAPER, MUTED, BLUE, RED, GREEN, PINK, GOLD, SKY = COLOURS

SMALL: dict[str, Any] = {
    "font_size": 8.5,
    "axes_titlesize": 8.5,
    "axes_titlelocation": "left",
    "xtick_labelsize": 7.5,
    "ytick_labelsize": 7.5,
}

WIDE_INCHES = 4.0

TITLE_LETTERS = 24
"""Of a line above a panel."""

TITLE_INCHES = 0.36

KEY_INCHES = 0.2

COLUMNS = 5
"""Of small panels in a file."""

DPI = 180

DASHES = {"--": "5 3", "-.": "6 2 1 2", ":": "1.5 2"}

SHAPES = {
    "o": '<circle cx="14" cy="5" r="3"/>',
    "s": '<path d="M11 2h6v6h-6z"/>',
    "^": '<path d="M14 1l3.5 7h-7z"/>',
    "v": '<path d="M14 9l3.5 -7h-7z"/>',
    "D": '<path d="M14 1l4 4l-4 4l-4 -4z"/>',
    "|": '<path d="M13 1h2v8h-2z"/>',
    "P": '<path d="M13 1h2v3h3v2h-3v3h-2v-3h-3v-2h3z"/>',
}
"""Of matplotlib's markers, for the legend on the page."""


@dataclass(frozen=True)
class Look:
    """How a line, or what else stands for one thing, is drawn; never by its colour alone.

    Attributes:
        colour: One of :data:`COLOURS`.
        dash: matplotlib's ``-``, ``--``, ``-.`` or ``:``; empty: no line.
        marker: matplotlib's ``o``, ``s``, ``^`` and the like; empty: none.
        width: Of the line, in points.
        filled: Whether it is an area.
        hollow: Whether its marker is.
        alpha: Opacity of an area.
    """

    colour: str
    dash: str = "-"
    marker: str = ""
    width: float = 1.8
    filled: bool = False
    hollow: bool = False
    alpha: float = 1.0

    @property
    def line(self) -> dict[str, Any]:
        """What :meth:`Axes.plot` takes."""
        return {
            "color": self.colour,
            "linestyle": self.dash or "none",
            "marker": self.marker,
            "markersize": 3.5,
            "markerfacecolor": PAPER if self.hollow else self.colour,
            "linewidth": self.width,
        }


LOOKS = (
    Look(BLUE, "-", "o"),
    Look(RED, "--", "s"),
    Look(GREEN, "-.", "^"),
    Look(PINK, ":", "D"),
    Look(GOLD, "-", "v"),
    Look(SKY, "--", "P"),
)
"""Of several things that are told apart, in their order."""


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure.

    Attributes:
        title: Above it; empty: none.
        detail: Behind the title, such as how many films it is of.
        paint: Function that draws into it.
    """

    title: str
    paint: Callable[[Axes], None]
    detail: str = ""

    @property
    def heading(self) -> str:
        """Title and detail."""
        return f"{self.title} ({self.detail})" if self.detail else self.title


@dataclass(frozen=True)
class Plot:
    """A figure.

    Attributes:
        name: Of its files, unique on a page.
        title: What it is, in a few words.
        caption: How to read it.
        panels: Of the same axes; narrow ones stand side by side.
        table: All numbers in it.
        keys: The legend.
        x: Label of the axis across.
        y: Label of the axis up.
        size: Of a panel: width and height in inches.
        limits: Ends of all panels' axis up; None: each has its own.
    """

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    table: Table
    keys: Sequence[tuple[str, Look]] = ()
    x: str = ""
    y: str = ""
    size: tuple[float, float] = (5.2, 3.0)
    limits: tuple[float, float] | None = None

    @property
    def small(self) -> bool:
        """Whether its panels are narrow."""
        return self.size[0] < WIDE_INCHES


def figure_of(plot: Plot) -> Figure:
    """Return a figure for the page: a drawing for each panel, in the page's colours."""
    axes = f" Across: {plot.x}. Up: {plot.y}." if plot.small and plot.x else ""
    with styled(plot.name, **(SMALL if plot.small else {})):
        panels = "".join(_drawings(plot))
    kind = "panels" if plot.small else "panel"
    keys = "".join(f"<li>{_sample(look)}{escape(label)}</li>" for label, look in plot.keys)
    legend = f'<ul class="keys">{keys}</ul>' if keys else ""
    narrowest = f"--panel: {5.4 * plot.size[0]:.1f}rem"
    drawing = f'<h3>{escape(plot.title)}</h3>{legend}<div class="{kind}" style="{narrowest}">'
    return Figure(plot.name, f"{plot.caption}{axes}", f"{drawing}{panels}</div>", plot.table)


def files_of(plot: Plot) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a figure: PNG, PDF and CSV, by their names."""
    forms: tuple[Format, ...] = ("png", "pdf")
    with styled(plot.name, **(SMALL if plot.small else {})):
        canvas = _whole(plot)
        for form in forms:
            yield f"{plot.name}.{form}", saved(canvas, form, dpi=DPI)
            canvas.set_layout_engine("none")  # it is laid out, and the same in every form
    yield f"{plot.name}.csv", csv_of(plot.table).encode()


def csv_of(table: Table) -> str:
    """Return a table as CSV."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerows([cell.text for cell in row] for row in (table.header, *table.rows))
    return text.getvalue()


def _drawings(plot: Plot) -> Iterator[str]:
    """Yield each panel's title and drawing; all are drawn with one pair of axes, which is fast."""
    canvas = Canvas(figsize=plot.size, layout=None if plot.small else "constrained")
    if plot.small:
        axes = _axes_in(canvas, plot.size, (0.0, 0.0), room=0.06)
    else:
        axes = canvas.subplots()
        axes.set(xlabel=plot.x, ylabel=plot.y)
    for panel in plot.panels:
        _paint(plot, panel, axes)
        yield _titled(plot, panel, svg_of(canvas, transparent=True))
        for artist in (*axes.lines, *axes.collections, *axes.patches, *axes.texts):
            artist.remove()


def _axes_in(
    canvas: Canvas, size: tuple[float, float], corner: tuple[float, float], room: float
) -> Axes:
    """Return axes in a cell of a drawing; layouts by matplotlib take far longer.

    Args:
        canvas: The drawing.
        size: Of the cell: width and height in inches.
        corner: Its lower left one, in inches.
        room: Inches above the axes.
    """
    width, height = canvas.get_size_inches()
    left, bottom = corner[0] + 0.34, corner[1] + 0.22
    inside = (size[0] - 0.4, size[1] - 0.22 - room)
    return canvas.add_axes((left / width, bottom / height, inside[0] / width, inside[1] / height))


def _titled(plot: Plot, panel: Panel, svg: str) -> str:
    """Return a panel in the page's colours under its title."""
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, variable)
    label = escape(f"{plot.title}: {panel.heading}" if panel.title else plot.title)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    detail = f" <small>{escape(panel.detail)}</small>" if panel.detail else ""
    title = f"<b>{escape(panel.title)}</b>{detail}" if panel.title else ""
    return f"<div>{title}{svg}</div>"


def _paint(plot: Plot, panel: Panel, axes: Axes) -> None:
    panel.paint(axes)
    if plot.limits is not None:
        axes.set_ylim(*plot.limits)


def _whole(plot: Plot) -> Canvas:
    """Return all panels and the legend in one drawing."""
    samples = [_handle(look) for _, look in plot.keys]
    labels = [label for label, _ in plot.keys]
    if plot.small:
        canvas = _grid(plot)
        canvas.legend(samples, labels, loc="lower left", ncols=2)
        return canvas
    width, height = plot.size
    canvas = Canvas(figsize=(width, height + KEY_INCHES * (len(labels) + 2)), layout="constrained")
    axes = canvas.subplots()
    axes.set(xlabel=plot.x, ylabel=plot.y)
    _paint(plot, plot.panels[0], axes)
    canvas.suptitle(plot.title)
    if labels:
        canvas.legend(samples, labels, loc="outside lower left", fontsize=9)
    return canvas


def _grid(plot: Plot) -> Canvas:
    """Return small panels in rows, with room for the legend below and their titles above."""
    columns = min(len(plot.panels), COLUMNS)
    rows = math.ceil(len(plot.panels) / columns)
    width, height = plot.size[0], plot.size[1] + TITLE_INCHES
    below = KEY_INCHES * (1 + math.ceil(len(plot.keys) / 2)) + 0.1
    canvas = Canvas(figsize=(max(columns * width + 0.2, 5.2), rows * height + below + 0.35))
    whole = canvas.get_size_inches()
    for i, panel in enumerate(plot.panels):
        row, column = divmod(i, columns)
        corner = (0.2 + column * width, below + (rows - 1 - row) * height)
        axes = _axes_in(canvas, (width, height), corner, TITLE_INCHES)
        axes.set_title("\n".join(wrap(panel.heading, TITLE_LETTERS)))
        _paint(plot, panel, axes)
    canvas.suptitle(plot.title, y=1 - 0.1 / whole[1], va="top")
    canvas.text(0.5, (below - 0.08) / whole[1], plot.x, ha="center", va="center")
    canvas.text(0.1 / whole[0], 0.5, plot.y, ha="center", va="center", rotation=90)
    return canvas


def _sample(look: Look) -> str:
    """Return a piece of the line, as it stands in the page's legend."""
    colour = COLOURS[look.colour]
    if look.filled:
        inside = f'<path d="M4 0h20v10h-20z" fill="{colour}" opacity="{look.alpha}"/>'
    else:
        dashes = f' stroke-dasharray="{DASHES[look.dash]}"' if look.dash in DASHES else ""
        line = f'<path d="M0 5h28" stroke="{colour}" stroke-width="{look.width}"{dashes}/>'
        shape = SHAPES.get(look.marker, "")
        inside = line if look.dash else ""
        inside += (
            f'<g fill="{COLOURS[PAPER] if look.hollow else colour}" stroke="{colour}">{shape}</g>'
        )
    return f'<svg class="key" viewBox="0 0 28 10" aria-hidden="true">{inside}</svg>'


def _handle(look: Look) -> Artist:
    return (
        Patch(color=look.colour, alpha=look.alpha) if look.filled else Line2D([], [], **look.line)
    )
