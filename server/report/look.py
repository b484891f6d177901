"""How what a figure tells apart is drawn, and its piece of the legend; imports matplotlib."""

from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

COLOURS = {
    "#1a1a1a": "currentColor",
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


def sample(look: Look) -> str:
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


def handle(look: Look) -> Artist:
    """Return the same for a legend in a file."""
    return (
        Patch(color=look.colour, alpha=look.alpha) if look.filled else Line2D([], [], **look.line)
    )
