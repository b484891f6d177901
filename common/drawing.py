"""Drawings as SVG, PNG and PDF that need nothing from elsewhere; imports matplotlib.

The same input gives the same bytes.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.figure import Figure

Format = Literal["svg", "png", "pdf"]

STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "pdf.fonttype": 42,
}

NO_METADATA: dict[Format, tuple[str, ...]] = {
    "svg": ("Creator", "Date", "Format", "Type"),
    "png": ("Software",),
    "pdf": ("Creator", "Producer", "CreationDate"),
}


@contextmanager
def styled(name: str, **changes: Any) -> Iterator[None]:
    """Set the look of what is drawn and saved within the block.

    Args:
        name: The drawing's, unique within a page: identifiers within the SVG follow from it.
        **changes: matplotlib's settings, with ``_`` for the dot.
    """
    changed = {key.replace("_", ".", 1): value for key, value in changes.items()}
    with rc_context({**STYLE, **changed, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page's reader has the font
        yield


def saved(canvas: Figure, form: Format, **options: Any) -> bytes:
    """Return the bytes of a drawing's file, without the time or the name of a program."""
    file = io.BytesIO()
    metadata = dict.fromkeys(NO_METADATA[form])
    canvas.savefig(file, format=form, metadata=metadata, **options)
    return file.getvalue()


def svg_of(canvas: Figure, **options: Any) -> str:
    """Return a drawing as an element of a page."""
    svg = saved(canvas, "svg", **options).decode()
    # Groups' names repeat from drawing to drawing, and nothing refers to them.
    return re.sub(r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :])
