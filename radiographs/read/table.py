"""CSV and text files that people and data sets bring, plain or gzipped (``.gz``)."""

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
        where: File and line, for a message.
        number: The line's number in the file, from 1.
        cells: By the name of their column, without blanks at either end.
    """

    where: str
    number: int
    cells: dict[str, str]


def read_table(path: Path, needed: Sequence[str]) -> Iterator[Line]:
    """Yield the lines of a table, by the names of its columns and never by their places.

    The delimiter is the one of comma, semicolon and tab that the header has most of. Columns
    without a name are left out, empty lines too. A line may end in empty cells, but in none that
    the header does not have: a comma within a cell moves all that follow.

    Args:
        path: The file, UTF-8.
        needed: Columns that have to be there, once each.

    Raises:
        BadInput: The file cannot be read, lacks a column, a line is too short or too long, or none
            is there.
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
        BadInput: An earlier line names it. The name itself is not repeated: at a hospital it may
            be a patient's.
    """
    if name in seen:
        raise BadInput(f"{where}: the same image as line {seen[name]}")
    seen[name] = number


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """Open a text file, UTF-8, plain or gzipped.

    Raises:
        BadInput: It cannot be opened; in the block: what is wrong with its bytes.
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
