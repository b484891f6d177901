"""The folder of a run: what it was started with, what happened, and the models it made.

::

    config.json     what the run was started with
    rounds.jsonl    one line for each round
    open.json       the last round's, until its model is scored on the test shard
    events.jsonl    one line for each event: hospitals that come and go, refusals, rejections
    histograms/     round-NNNN.json, what each hospital told in the round; one more at the end
    audit.jsonl     what was sent to and came from each hospital; hash-chained
    excluded/       one file for each hospital that may not take part until it is removed
    noise.key       secret of the noise, with --dp site
    replies/        what each hospital returned last; goes once the run is over
    checkpoints/    round-NNNN.pt, the last few
    best.pt         the model with the best validation AUC
    final.pt        the model after the last round
    ema.pt          the moving average of the models, with --ema
    status.json     how the run stands; a terminal state once the process has ended
    live.json       what the run and each hospital are doing right now
    server.log      what the server said
    report.html     a page on the run, once it is done
"""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.checkpoint import write_checkpoint
from common.errors import BadInput
from common.options import Architecture
from common.provenance import Provenance
from common.runtime.files import (
    append_json,
    drop_temporary,
    drop_torn_line,
    remedy,
    write_json,
    write_whole,
)
from common.runtime.status import StatusFile, read_status
from common.state import Spec, State
from server.run.config import Changing, check_unchanged, in_force
from server.run.events import Changed, Event, Joined, Left, read_events
from server.run.exclusions import Exclusions
from server.run.histograms import histograms_file
from server.run.live import LIVE, LiveState
from server.run.log import RunLog
from server.run.records import OPEN, RoundRecord, RunStatus, read_open, read_rounds
from server.run.spool import Spool

log = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 3

NOISE_KEY = "noise.key"


def unwritable(path: Path, error: OSError) -> BadInput:
    """Return what ends a run whose folder cannot be written, with what to do."""
    return BadInput(f"{path}: {error.strerror}; {remedy(error)} and go on with --resume")


class RunFolder:
    """Writes a run's files, each either whole or a line at a time, and on disk before it returns.

    Made by :meth:`create` or :meth:`reopen`.

    Attributes:
        path: The folder.
        config: What the run was started with.
        log: Takes what happens in the run.
        live: What the run is doing right now.
        exclusions: Hospitals that may not take part any more.
        status: How the run stands.
        observers: Called with each round after it is written.
        safe: The last round after which a killed server would go on.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self.live = LiveState()
        self.log = RunLog(path, self.live.note)
        self.exclusions = Exclusions(path / "excluded")
        self.status = StatusFile(path)
        self.observers: list[Callable[[RoundRecord], None]] = []
        self._rounds: list[RoundRecord] | None = None
        self._open: RoundRecord | None = None
        self.safe = 0

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
        except PermissionError as error:
            raise BadInput(f"{path / 'config.json'}: {error.strerror}; {remedy(error)}") from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BadInput(
                f"{path / 'config.json'}: {type(error).__name__}; --resume needs the folder of a "
                "run that was started"
            ) from None
        begun = bool(read_rounds(path)) or read_open(path) is not None
        check_unchanged(old, config, begun=begun)
        try:
            folder = cls(path, old)
            folder._drop_what_is_half_written()
        except OSError as error:
            raise unwritable(path, error) from None
        return folder

    def _drop_what_is_half_written(self) -> None:
        drop_torn_line(self.path / "events.jsonl")
        for name in ("status.json", LIVE, "best.pt", "final.pt", "ema.pt", OPEN, ".reserve"):
            drop_temporary(self.path / name)
        done = len(self.rounds())
        if self._open is None:
            (self.path / OPEN).unlink(missing_ok=True)
        drop_temporary(histograms_file(self.path, done + 1))
        last = self.checkpoint(done)
        for file in (self.path / "checkpoints").iterdir():
            if not file.match("round-*.pt") or file > last:
                file.unlink()  # of a round without a line, which is done again

    def change(self, option: Changing, new: float) -> None:
        """Give an option another value from the next round on, and note it."""
        done = len(self.rounds())
        old = in_force(self.config).get(option, self.config[option])
        change = Changed(round=done, option=option, old=old, new=new)
        self.log.record(change)
        self.config.setdefault("changes", []).append(change.fields())
        write_json(self.path / "config.json", self.config)

    def rounds(self) -> Sequence[RoundRecord]:
        """Return the rounds that are done, with one whose line is not written yet.

        The files are read once. The hospitals' intervals are in the files alone: only a report
        needs them, and they would be most of a long run's memory.

        Raises:
            BadInput: A line is damaged.
        """
        return self._read()

    def _read(self) -> list[RoundRecord]:
        if self._rounds is None:
            drop_torn_line(self.path / "rounds.jsonl")
            self._rounds = [_without_intervals(record) for record in read_rounds(self.path)]
            if (left := read_open(self.path)) is not None and left.round == len(self._rounds) + 1:
                self._rounds.append(_without_intervals(left))
                self._open = left
            self.safe = len(self._rounds)
        return self._rounds

    @property
    def open_round(self) -> RoundRecord | None:
        """The last round, if its model is saved and its line is not written yet."""
        self._read()
        return self._open

    def hold(self, record: RoundRecord) -> None:
        """Count a round as done that is neither saved nor written yet."""
        self._read().append(record)

    def keep_open(self, record: RoundRecord) -> None:
        """Write down a round whose model is saved and not scored yet."""
        self._open = record
        write_json(self.path / OPEN, record.model_dump(mode="json"))
        self._set_safe(record)

    def events(self) -> list[Event]:
        """Return the events so far; a line that is damaged is passed over."""
        return read_events(self.path, damaged_too=True)

    def write_round(self, record: RoundRecord) -> None:
        """Append a round to ``rounds.jsonl``, and tell the observers."""
        self._read()
        append_json(self.path / "rounds.jsonl", record.model_dump(mode="json"))
        self._set_safe(record)
        self._open = None
        (self.path / OPEN).unlink(missing_ok=True)
        for observe in self.observers:
            observe(record)

    def _set_safe(self, record: RoundRecord) -> None:
        # In its place, if it is held.
        self._read()[record.round - 1 :] = [_without_intervals(record)]
        self.safe = record.round

    def is_finished(self, rounds: int) -> bool:
        """Return whether so many rounds were run to the end."""
        try:
            status = read_status(self.path, RunStatus)
        except BadInput:
            return False
        return (status.state, status.rounds) == ("finished", rounds)

    def hospitals(self) -> set[str]:
        """Return the hospitals that took part in a round, or were asked to."""
        return {name for record in self.rounds() for name in record.cohort}

    def to_return(self) -> set[str]:
        """Return the hospitals that answered in the last round, or joined since and stayed."""
        there: set[str] = set()
        for event in self.events():
            if isinstance(event, Joined):
                there.add(event.site)
            elif isinstance(event, Left):
                there.discard(event.site)
        last = self.rounds()[-1:]
        return there.union(*((*record.hospitals, *record.rejected) for record in last))

    def spool(self, spec: Spec) -> Spool:
        """Return a place for the replies of one attempt at a round."""
        return Spool(self.path / "replies", spec)

    def drop_replies(self) -> None:
        """Remove the replies of the last attempt."""
        shutil.rmtree(self.path / "replies", ignore_errors=True)

    def checkpoint(self, number: int) -> Path:
        """Return the path of a round's checkpoint."""
        return self.path / "checkpoints" / f"round-{number:04d}.pt"

    def write_checkpoint(
        self,
        number: int,
        state: State,
        architecture: Architecture,
        provenance: Provenance,
        strategy: State | None = None,
    ) -> None:
        """Write a round's model and what is kept beside it; drop old checkpoints."""
        write_checkpoint(self.checkpoint(number), state, architecture, provenance, strategy)
        self.checkpoint(number - KEPT_CHECKPOINTS).unlink(missing_ok=True)

    def copy_checkpoint(self, number: int, name: str) -> None:
        """Copy a round's model to ``best.pt`` or ``final.pt``."""
        with self.checkpoint(number).open("rb") as source:
            write_whole(self.path / name, lambda file: shutil.copyfileobj(source, file))


def _without_intervals(record: RoundRecord) -> RoundRecord:
    hospitals = {
        name: part.model_copy(update={"auc_intervals": None})
        for name, part in record.hospitals.items()
    }
    return record.model_copy(update={"hospitals": hospitals})
