"""Reads what Weights & Biases keeps on disk: records in the log format of LevelDB.

https://github.com/google/leveldb/blob/main/doc/log_format.md, after a header of 7 bytes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

HEADER_BYTES, BLOCK_BYTES, CHUNK_HEADER_BYTES = 7, 32_768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records_of(file: Path) -> Iterator[Any]:
    content, at, parts = file.read_bytes(), HEADER_BYTES, b""
    while at + CHUNK_HEADER_BYTES <= len(content):
        left = BLOCK_BYTES - at % BLOCK_BYTES
        if left < CHUNK_HEADER_BYTES:
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + CHUNK_HEADER_BYTES : at + CHUNK_HEADER_BYTES + length]
        at += CHUNK_HEADER_BYTES + length
        if kind in (FULL, LAST):
            yield Record.FromString(parts)
            parts = b""


def history_of(file: Path) -> list[dict[str, Any]]:
    """Return the rows that were logged."""
    return [
        {"/".join([item.key, *item.nested_key]).strip("/"): json.loads(item.value_json)
         for item in record.history.item}
        for record in records_of(file) if record.WhichOneof("record_type") == "history"
    ]  # fmt: skip
