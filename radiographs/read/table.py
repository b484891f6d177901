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
    in a cell would shift all cells after it.

    Args:
        path: The file, UTF-8.
        needed: Columns that the header must have exactly once.

    Raises:
        BadInput: The file cannot be read, lacks a column, has no line, or a line is too short or
            too long.
    """
    with opened(path) as file:
        first = file.readline()
        delimiter = max(DELIMITERS, key=first.count)
        names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
        for name in needed:
            if names.count(name) != 1:
                raise BadInput(
                    f"{path}: {names.count(name)} columns {name!r}, not one; "
                    f"the header is {','.join(names)!r}"
                )
        columns = {name: i for i, name in enumerate(names) if name}
        width = max(columns.values(), default=0) + 1
        empty = True
        reader = csv.reader(file, delimiter=delimiter)
        for cells in filter(None, reader):
            number = reader.line_num + 1
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
    """Return the names of a table's columns.

    Raises:
        BadInput: The file cannot be read or has no line.
    """
    return list(next(read_table(path, [])).cells)


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
