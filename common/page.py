"""HTML pages that need nothing from elsewhere: a template, the styles that all have, and tables."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template


def fill(package: str, template: str, **parts: str) -> str:
    """Return a page.

    Args:
        package: Where the template is.
        template: Its file, with ``$NAME`` for each part, and ``$style``.
        **parts: HTML.
    """
    style = (files("common") / "page.css").read_text(encoding="utf-8")
    text = (files(package) / template).read_text(encoding="utf-8")
    return Template(text).substitute(style=style, **parts)


def rows(content: Iterable[Sequence[str]]) -> str:
    """Return rows of a table whose first column names them, as HTML.

    Args:
        content: Plain text, cell by cell.
    """
    return "\n".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(text)}</td>' for text in rest)}</tr>"
        for first, *rest in content
    )
