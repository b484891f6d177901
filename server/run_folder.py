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

import shutil
from pathlib import Path
from typing import Any, Literal

from common.checkpoint import Provenance, write_checkpoint
from common.errors import BadInput
from common.files import append_json, now, write_json, write_whole
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
        write_json(path / "config.json", config)

    def write_round(self, line: dict[str, Any]) -> None:
        """Append a round's line to ``rounds.jsonl``."""
        append_json(self.path / "rounds.jsonl", line)

    def write_event(self, event: str, **fields: Any) -> None:
        """Append an event with its time to ``events.jsonl``."""
        append_json(self.path / "events.jsonl", {"time": now(), "event": event, **fields})

    def write_status(self, state: RunState, **fields: Any) -> None:
        """Replace ``status.json``."""
        write_json(self.path / "status.json", {"state": state, "time": now(), **fields})

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
