"""A document of paragraphs, lists, tables and figures, and its two forms: HTML and Markdown."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What stands there.
        detail: A remark on it, in smaller type or in brackets.
        bold: Whether it is set in bold.
        style: CSS of its own; Markdown has none.
    """

    text: str
    detail: str = ""
    bold: bool = False
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table; each row's first cell names it, the last cell of a short row takes up the rest.

    ``texts`` says that the columns hold words rather than numbers.
    """

    header: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    texts: bool = False


@dataclass(frozen=True)
class Figure:
    """A drawing; beside Markdown it is a file ``NAME.svg``.

    Attributes:
        name: Unique within a document.
        caption: What is to be seen.
        svg: The drawing; in HTML it may be any HTML.
        table: Its numbers, which HTML shows on demand.
    """

    name: str
    caption: str
    svg: str
    table: Table | None = None


@dataclass(frozen=True)
class Items:
    """A list."""

    items: Sequence[str]


Block = str | Items | Table | Figure
"""A string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


def html_of(sections: Sequence[Section]) -> str:
    """Return the sections as the body of a page; all texts are escaped."""
    return "\n".join(
        f"<section>\n<h2>{escape(section.title)}</h2>\n"
        + "\n".join(_html_block(block) for block in section.blocks)
        + "\n</section>"
        for section in sections
    )


def markdown_of(title: str, sections: Sequence[Section]) -> str:
    """Return the document as Markdown for GitHub, with drawings as the files of figures_of."""
    parts = [f"# {_plain(title)}"]
    for section in sections:
        parts.append(f"## {_plain(section.title)}")
        parts += [_markdown_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def figures_of(sections: Sequence[Section]) -> list[Figure]:
    """Return the drawings in the sections."""
    return [block for section in sections for block in section.blocks if isinstance(block, Figure)]


def _html_block(block: Block) -> str:
    match block:
        case str():
            return f"<p>{escape(block)}</p>"
        case Items():
            return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in block.items)}</ul>"
        case Figure():
            numbers = "" if block.table is None else _folded(block.table)
            return (
                f'<figure id="{escape(block.name)}"><div class="scroll">{block.svg}</div>'
                f"<figcaption>{escape(block.caption)}</figcaption>{numbers}</figure>"
            )
        case Table():
            return _html_table(block)


def _folded(table: Table) -> str:
    return f"<details><summary>The numbers</summary>\n{_html_table(table)}</details>"


def _html_table(table: Table) -> str:
    head = "".join(_html_cell(cell, 'th scope="col"') for cell in table.header)
    body = "\n".join(_html_row(row, len(table.header)) for row in table.rows)
    return (
        f'<div class="scroll"><table class="{"texts" if table.texts else "numbers"}">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _html_row(row: Sequence[Cell], columns: int) -> str:
    tags = ['th scope="row"'] + ["td"] * (len(row) - 1)
    if len(row) < columns:
        tags[-1] = f'td class="rest" colspan="{columns - len(row) + 1}"'
    cells = "".join(_html_cell(cell, tag) for cell, tag in zip(row, tags, strict=True))
    return f"<tr>{cells}</tr>"


def _html_cell(cell: Cell, tag: str) -> str:
    text = f"<b>{escape(cell.text)}</b>" if cell.bold else escape(cell.text)
    detail = f" <small>{escape(cell.detail)}</small>" if cell.detail else ""
    style = f' style="{escape(cell.style)}"' if cell.style else ""
    return f"<{tag}{style}>{text}{detail}</{tag.split()[0]}>"


def _markdown_block(block: Block) -> str:
    match block:
        case str():
            return _plain(block)
        case Items():
            return "\n".join(f"- {_plain(item)}" for item in block.items)
        case Figure():
            return f"![{_plain(block.caption)}]({block.name}.svg)"
        case Table():
            align = "|---" * len(block.header) if block.texts else _right(len(block.header))
            rows = [_markdown_row(row, len(block.header)) for row in block.rows]
            return "\n".join([_markdown_row(block.header, len(block.header)), f"{align}|", *rows])


def _right(columns: int) -> str:
    return "|---" + "|--:" * (columns - 1)


def _markdown_row(row: Sequence[Cell], columns: int) -> str:
    texts = [_markdown_cell(cell) for cell in row] + [""] * (columns - len(row))
    return f"| {' | '.join(texts)} |"


def _markdown_cell(cell: Cell) -> str:
    text = f"**{_plain(cell.text)}**" if cell.bold else _plain(cell.text)
    return f"{text} ({_plain(cell.detail)})" if cell.detail else text


def _plain(text: str) -> str:
    """Return text on one line that Markdown shows as it is."""
    return re.sub(r"([\\`*_|\[\]<>~&])", r"\\\1", " ".join(text.split()))
