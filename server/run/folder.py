"""The folder of a run: what it was started with, what happened, and the models it made.

::

    config.json     what the run was started with
    rounds.jsonl    one line for each round
    events.jsonl    one line for each event: hospitals that come and go, refusals, rejections
    audit.jsonl     who was sent and who sent what; hash-chained, see common/audit.py
    excluded/       one file for each hospital that may not take part until it is removed
    replies/        what came in the round that is open
    checkpoints/    round-NNNN.pt, the last few
    best.pt         the model with the best validation AUC
    final.pt        the model after the last round
    status.json     how the run stands; a terminal state once the process has ended
    server.log      what the server said
    report.html     a page on the run, once it is done
"""

import json
import logging
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from common.audit import AuditLog
from common.checkpoint import Provenance, write_checkpoint
from common.errors import BadInput
from common.model import Architecture
from common.runtime.files import (
    append_json,
    drop_temporary,
    drop_torn_line,
    give_up_reserve,
    keep_reserve,
    now,
    read_lines,
    remedy,
    write_json,
    write_whole,
)
from common.wire import Spec, State
from server.run.spool import Spool

log = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 3

CHANGEABLE = frozenset(
    {"run", "rounds", "min_clients", "quorum", "attempts", "round_timeout", "listen", "tls"}
    | {"insecure", "resume", "device", "threads", "versions", "run_id", "max_examples"}
)
"""What ``--resume`` may set anew; everything else decides the result."""

RunState = Literal["running", "finished", "no quorum", "stopped", "failed"]


def unwritable(path: Path, error: OSError) -> BadInput:
    """Return what ends a run whose folder cannot be written, with what to do."""
    return BadInput(f"{path}: {error.strerror}; {remedy(error)} and go on with --resume")


class RunFolder:
    """Writes a run's files, each either whole or a line at a time, and on disk before it returns.

    Made by :meth:`create` or :meth:`reopen`.

    Attributes:
        path: The folder.
        config: What the run was started with.
        audit: Its audit log.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self.audit = AuditLog(path / "audit.jsonl")

    @classmethod
    def create(cls, path: Path, config: dict[str, Any]) -> "RunFolder":
        """Make a folder for a new run.

        Raises:
            BadInput: There is a run in the folder already, or it cannot be made.
        """
        if path.exists() and not cls.is_new(path):
            raise BadInput(
                f"{path}: is not empty; give --run a new folder, or --resume to go on with it"
            )
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            write_json(path / "config.json", config)
            return cls(path, config)
        except OSError as error:
            what = f"{remedy(error)}, or give --run another folder"
            raise BadInput(f"{path}: {error.strerror}; {what}") from None

    @staticmethod
    def is_new(path: Path) -> bool:
        """Return whether no run was begun in a folder, which need not be there."""
        drop_temporary(path / "config.json")
        left = path / "checkpoints"  # what a server leaves that is killed while it begins
        files = list(path.iterdir()) if path.is_dir() else [path] if path.exists() else []
        return files in ([], [left]) and not (left.is_dir() and any(left.iterdir()))

    @classmethod
    def reopen(cls, path: Path, config: dict[str, Any]) -> "RunFolder":
        """Open a run to go on with it, without what a killed server left half-written.

        Raises:
            BadInput: There is no run, another server has it, or what it was started with differs
                in more than what may change.
        """
        try:
            old = dict(json.loads((path / "config.json").read_bytes()))
            if missing := {"run_id"} & config.keys() - old.keys():
                raise KeyError(missing)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BadInput(
                f"{path / 'config.json'}: {type(error).__name__}; --resume needs the folder of a "
                "run that was started"
            ) from None
        for name in sorted(old.keys() | config.keys()):
            if name not in CHANGEABLE and old.get(name) != config.get(name):
                raise BadInput(
                    f"--{name.replace('_', '-')} is {config.get(name)}, but the run was started "
                    f"with {old.get(name)}; give the same, or start another run"
                )
        try:
            folder = cls(path, old)
            folder._drop_what_is_half_written()
        except OSError as error:
            raise unwritable(path, error) from None
        return folder

    def _drop_what_is_half_written(self) -> None:
        drop_torn_line(self.path / "events.jsonl")
        for name in ("status.json", "best.pt", "final.pt", ".reserve"):
            drop_temporary(self.path / name)
        last = self.checkpoint(len(self.rounds()))
        for file in (self.path / "checkpoints").iterdir():
            if not file.match("round-*.pt") or file > last:
                file.unlink()  # of a round without a line, which is done again

    def rounds(self) -> list[dict[str, Any]]:
        """Return the lines of the rounds that are done."""
        return read_lines(self.path / "rounds.jsonl")

    def events(self) -> list[dict[str, Any]]:
        """Return the events so far; a line that is damaged is passed over."""
        file = self.path / "events.jsonl"
        events = []
        for line in file.read_bytes().splitlines() if file.exists() else ():
            with suppress(ValueError, TypeError):
                events.append(dict(json.loads(line)))
        return events

    def write_round(self, line: dict[str, Any]) -> None:
        """Append a round's line to ``rounds.jsonl``."""
        append_json(self.path / "rounds.jsonl", line)

    def write_event(self, event: str, **fields: Any) -> None:
        """Append an event with its time to ``events.jsonl``."""
        append_json(self.path / "events.jsonl", {"time": now(), "event": event, **fields})

    def write_status(self, state: RunState, **fields: Any) -> None:
        """Replace ``status.json``; a terminal state on a full disk too.

        Raises:
            OSError: It cannot be written, or there is no room for a terminal state later.
        """
        if state == "running":
            keep_reserve(self.path)
        else:
            give_up_reserve(self.path)
        write_json(self.path / "status.json", {"state": state, "time": now(), **fields})

    def end(self, state: RunState, reason: str, rounds: int) -> None:
        """Write how the run ended and how many rounds it was to have, if that can be written."""
        try:
            self.write_status(state, reason=reason, rounds=rounds)
        except OSError as error:
            log.error("status.json could not be written: %s", error.strerror)

    def is_finished(self, rounds: int) -> bool:
        """Return whether so many rounds were run to the end."""
        try:
            status = dict(json.loads((self.path / "status.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return False
        return (status.get("state"), status.get("rounds")) == ("finished", rounds)

    def hospitals(self) -> set[str]:
        """Return who took part in a round, or was asked to."""
        parts = ("hospitals", "rejected", "missing")
        return {name for line in self.rounds() for part in parts for name in line[part]}

    def to_return(self) -> set[str]:
        """Return who answered in the last round, or joined and has not left, as far as is known."""
        there: set[str] = set()
        for event in self.events():
            if event["event"] == "joined":
                there.add(event["site"])
            elif event["event"] == "left":
                there.discard(event["site"])
        last = self.rounds()[-1:]
        return there.union(*((*line["hospitals"], *line["rejected"]) for line in last))

    def exclude(self, name: str, reason: str) -> None:
        """Exclude a hospital until a person removes the file."""
        self._exclusion(name).parent.mkdir(exist_ok=True)
        write_json(self._exclusion(name), {"time": now(), "reason": reason})

    def exclusion(self, name: str) -> str | None:
        """Return why a hospital is excluded; None: it is not."""
        file = self._exclusion(name)
        if not file.exists():
            return None
        return (
            f"{name} is excluded from this run after bad replies; whoever runs the server lets it "
            f"in again by removing {file.name} from {file.parent.name}"
        )

    def _exclusion(self, name: str) -> Path:
        return self.path / "excluded" / f"{name}.json"

    def spool(self, spec: Spec) -> Spool:
        """Return an empty place for the replies of one attempt at a round."""
        return Spool(self.path / "replies", spec)

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
