"""Reads CSV and text files, plain or gzipped (``.gz``)."""

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO, cast

from common.errors import BadInput

DELIMITERS = ",;\t"


class Line(NamedTuple):
    """A line of a table.

    Attributes:
        where: File and line, for an error message.
        number: Number of the line in the file, from 1.
        cells: Stripped cells by column name.
    """

    where: str
    number: int
    cells: dict[str, str]


def read_table(path: Path, needed: Sequence[str]) -> Iterator[Line]:
    """Yield the lines of a table, with cells by column name.

    The delimiter is the most frequent of comma, semicolon and tab in the header. Columns without a
    name and empty lines are skipped. Cells beyond the header must be empty: an unquoted delimiter
    in a cell would shift all cells after it. Quotation marks must follow RFC 4180, and a cell in
    them must not span whole lines: after a stray mark it would hold other lines' cells.

    Args:
        path: The file, UTF-8.
        needed: Columns that the header must have exactly once.

    Raises:
        BadInput: The file cannot be read, lacks a column, has no line, or a line is too short, too
            long or has a stray quotation mark.
    """
    with opened(path) as file:
        delimiter, names = _header(path, file)
        for name in needed:
            if names.count(name) != 1:
                raise BadInput(
                    f"{path}: {names.count(name)} columns {name!r}, not one; "
                    f"the header is {','.join(names)!r}"
                )
        columns = {name: i for i, name in enumerate(names) if name}
        width = max(columns.values(), default=0) + 1
        empty = True
        for number, cells in _records(path, file, delimiter, width):
            where = f"{path}, line {number}"
            if len(cells) < width or any(cell.strip() for cell in cells[len(names) :]):
                raise BadInput(
                    f"{where}: {len(cells)} cells, but the header has {width}; put quotation marks "
                    "around a cell with the delimiter in it"
                )
            yield Line(where, number, {name: cells[i].strip() for name, i in columns.items()})
            empty = False
        if empty:
            raise BadInput(f"{path}: a header and no line")


def header_of(path: Path) -> list[str]:
    """Return the names of a table's columns, without empty ones; a name may be there twice.

    Raises:
        BadInput: The file cannot be read or has no header.
    """
    with opened(path) as file:
        _, names = _header(path, file)
    return [name for name in names if name]


def _header(path: Path, file: TextIO) -> tuple[str, list[str]]:
    """Read the first line; return the delimiter and the stripped names."""
    first = file.readline()
    delimiter = max(DELIMITERS, key=first.count)
    try:
        names = next(csv.reader([first], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise BadInput(f"{path}, line 1: {_reason(error)}") from None
    return delimiter, [name.strip() for name in names]


def _records(
    path: Path, file: TextIO, delimiter: str, width: int
) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line and the cells of each record that is not empty."""
    lines: list[str] = []

    def remembered() -> Iterator[str]:
        for line in file:
            lines.append(line)
            yield line

    reader = csv.reader(remembered(), delimiter=delimiter, strict=True)
    number = 2
    while True:
        lines.clear()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise BadInput(f"{path}, line {number}: {_reason(error)}") from None
        if cells is None:
            return
        if len(lines) > 1 and all(
            line.count(delimiter) + 1 >= max(width, 2) for line in (lines[0], lines[-1])
        ):
            raise BadInput(
                f"{path}, line {number}: a stray quotation mark; the cell after it would go on to "
                f"line {number + len(lines) - 1}"
            )
        if cells:
            yield number, cells
        number += len(lines)


def _reason(error: csv.Error) -> str:
    """Return what is wrong, without the module's terms; its messages quote no cell."""
    stray = ("expected after", "unexpected end", "field larger")
    if any(words in str(error) for words in stray):
        return "a stray quotation mark; a cell in quotation marks has a mark in it as two"
    return f"not a table: {error}"


def note_once(seen: dict[str, int], name: str, where: str, number: int) -> None:
    """Remember the line that names an image.

    Raises:
        BadInput: An earlier line names it. The message does not repeat the name: at a hospital it
            may be a patient's.
    """
    if name in seen:
        raise BadInput(f"{where}: the same image as line {seen[name]}")
    seen[name] = number


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """Open a text file, UTF-8, plain or gzipped.

    Raises:
        BadInput: The file cannot be opened or, in the block, its bytes are invalid.
    """
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", newline="", encoding="utf-8-sig") as file:
            yield cast(TextIO, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{path}: not a whole gzip file: {error}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: not UTF-8 text; save it as UTF-8") from None
    except csv.Error as error:
        raise BadInput(f"{path}: not a table: {error}") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
