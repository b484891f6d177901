"""Reads the file of ``--map``: which finding a hospital's own column means.

Either JSON, ``{"Pleural effusion": "Effusion", "Normal": "No Finding"}``, or a CSV file::

    column,finding
    Pleural effusion,Effusion
    Normal,No Finding

Columns that it does not name are read by their own name, or ignored.
"""

import json
from pathlib import Path

from pydantic import TypeAdapter

from common.errors import BadInput
from common.findings import NO_FINDING
from radiographs.read.site_labels import finding_named
from radiographs.read.table import opened, read_table

COLUMN, FINDING = "column", "finding"


def read_map(path: Path) -> dict[str, str]:
    """Return the finding, or ``No Finding``, of each column that the file names.

    Raises:
        BadInput: The file cannot be read, names a column or a finding twice, or a finding that is
            none. The message names file and value.
    """
    found: dict[str, str] = {}
    for where, column, name in _pairs(path):
        try:
            finding = NO_FINDING if name == NO_FINDING else finding_named(name)
        except ValueError as error:
            raise BadInput(f"{where}: {error}; or {NO_FINDING}") from None
        if column in found:
            raise BadInput(f"{where}: {column!r} is there twice")
        if finding in found.values():
            raise BadInput(f"{where}: a second column for {finding}; make one column of them")
        found[column] = finding
    return found


def _pairs(path: Path) -> list[tuple[str, str, str]]:
    """Return place, column and finding of each line."""
    with opened(path) as file:
        text = file.read()
    if not text.lstrip().startswith("{"):
        lines = read_table(path, (COLUMN, FINDING))
        return [(line.where, line.cells[COLUMN], line.cells[FINDING]) for line in lines]
    try:
        # Pairs, not a dict: that would drop a column that is there twice.
        named = TypeAdapter(list[tuple[str, str]]).validate_python(
            json.loads(text, object_pairs_hook=list)
        )
    except (ValueError, RecursionError):
        raise BadInput(
            f'{path}: not JSON like {{"Pleural effusion": "Effusion", "Normal": "{NO_FINDING}"}}'
        ) from None
    return [(str(path), column.strip(), finding.strip()) for column, finding in named]
