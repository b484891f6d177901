"""The folder of a run: what it was started with, what happened, and the models it made.

::

    config.json     what the run was started with
    rounds.jsonl    one line for each round
    events.jsonl    one line for each event: hospitals that come and go, refusals, rejections
    checkpoints/    round-NNNN.pt, the last few
    best.pt         the model with the best validation AUC
    final.pt        the model after the last round
    status.json     how the run stands; a terminal state once the process has ended
"""

import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from common.checkpoint import Provenance, write_checkpoint
from common.errors import BadInput
from common.files import write_whole
from common.model import Architecture
from common.wire import State

KEPT_CHECKPOINTS = 3

RunState = Literal["running", "finished", "no quorum", "stopped", "failed"]


class RunFolder:
    """Writes a run's files, each either whole or a line at a time, and on disk before it returns.

    Args:
        path: A new or empty folder.
        config: What goes into ``config.json``.

    Raises:
        BadInput: There is a run in the folder already, or it cannot be made.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise BadInput(f"{path}: is not empty; give --run a new folder")
        try:
            (path / "checkpoints").mkdir(parents=True)
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror}; give --run another folder") from None
        self._write_json("config.json", config)

    def write_round(self, line: dict[str, Any]) -> None:
        """Append a round's line to ``rounds.jsonl``."""
        self._append("rounds.jsonl", line)

    def write_event(self, event: str, **fields: Any) -> None:
        """Append an event with its time to ``events.jsonl``."""
        self._append("events.jsonl", {"time": _now(), "event": event, **fields})

    def write_status(self, state: RunState, **fields: Any) -> None:
        """Replace ``status.json``."""
        self._write_json("status.json", {"state": state, "time": _now(), **fields})

    def checkpoint(self, number: int) -> Path:
        """Return the path of a round's checkpoint."""
        return self.path / "checkpoints" / f"round-{number:04d}.pt"

    def write_checkpoint(
        self, number: int, state: State, architecture: Architecture, provenance: Provenance
    ) -> None:
        """Write a round's model and drop checkpoints that are too old."""
        write_checkpoint(self.checkpoint(number), state, architecture, provenance)
        self.checkpoint(number - KEPT_CHECKPOINTS).unlink(missing_ok=True)

    def copy_checkpoint(self, number: int, name: str) -> None:
        """Copy a round's model to ``best.pt`` or ``final.pt``."""
        with self.checkpoint(number).open("rb") as source:
            write_whole(self.path / name, lambda file: shutil.copyfileobj(source, file))

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        write_whole(self.path / name, lambda file: file.write(text.encode()))

    def _append(self, name: str, line: dict[str, Any]) -> None:
        text = json.dumps(line, allow_nan=False) + "\n"
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
