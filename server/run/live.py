"""What a run is doing right now, in memory and in ``live.json`` of its folder.

It says nothing that the other files lack once a round is done; whoever watches a run reads it.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import Event as Flag
from threading import Lock, Thread
from typing import Literal, Self

from pydantic import AwareDatetime, Field

from common.message import Identity
from common.protocol import Progress
from common.runtime.files import write_json
from server.run.events import (
    CONNECTION_CLOSED,
    AuditEvent,
    Event,
    Excluded,
    Joined,
    Left,
    Lost,
    ReplyRejected,
)
from server.run.records import Record

log = logging.getLogger(__name__)

LIVE = "live.json"

WRITE_SECONDS = 1.0
"""Between two looks at whether there is something new to write."""

LAST_SECONDS = 2.0
"""How long the last write may take; a disk that is gone must not hold up the end."""

Phase = Literal["waiting", "hospitals", "sum", "average", "save", "test", "closing"]
"""Of a round: waiting for a quorum, hospitals work, sum: under masks, ...; closing: the final model
is scored."""

Doing = Literal["waiting", "scoring", "training", "sending", "done", "late", "rejected", "gone"]
"""Waiting: connected, with nothing to do or without a word yet; late: it missed the deadline."""


class HospitalLive(Record):
    """What a hospital does right now, as far as the server knows."""

    doing: Doing
    since: AwareDatetime
    share: float | None = Field(None, ge=0, le=1, description="of the batches of what it is doing")
    reason: str = Field("", description="why it is late, rejected or gone")


class Live(Record):
    """What a run does right now."""

    round: int = Field(description="the one that is going on; 0: none yet")
    attempt: int
    phase: Phase
    since: AwareDatetime = Field(description="of the phase")
    started: AwareDatetime = Field(description="of the attempt")
    needed: int = Field(description="hospitals that a round needs, or that are waited for")
    hospitals: dict[str, HospitalLive]


class LiveState:
    """Follows a run; told of what happens from any thread.

    Attributes:
        changed: Set when something has changed; whoever looks clears it.
    """

    def __init__(self) -> None:
        self.changed = Flag()
        self._lock = Lock()
        self._identity: Identity | None = None
        self._busy: Mapping[str, Identity] = {}
        self._absent: set[str] = set()
        now = _now()
        self._live = Live(
            round=0, attempt=0, phase="waiting", since=now, started=now, needed=0, hospitals={}
        )

    def current(self) -> Live:
        """Return what the run does now."""
        with self._lock:
            return self._live.model_copy(update={"hospitals": dict(self._live.hospitals)})

    def begin(
        self,
        identity: Identity,
        phase: Phase,
        number: int,
        needed: int,
        busy: Mapping[str, Identity] | None = None,
    ) -> None:
        """Note that an attempt begins.

        Args:
            identity: Of its instructions.
            phase: Which it begins with.
            number: Of the round.
            needed: Hospitals that the round needs.
            busy: Hospitals that go on with the instructions of an earlier attempt, by name.
        """
        with self._lock:
            self._identity = identity
            self._busy = busy or {}
            now = _now()
            self._update(
                round=number,
                attempt=identity.attempt,
                phase=phase,
                since=now,
                started=now,
                needed=needed,
            )
            for name, known in self._live.hospitals.items():
                if name in self._absent:  # it may have been late before it went
                    gone = known.model_copy(update={"doing": "gone", "share": None})
                    self._live.hospitals[name] = gone
                elif name not in self._busy:
                    self._set(name, "waiting")

    def enter(self, phase: Phase, needed: int | None = None) -> None:
        """Note the phase.

        Args:
            phase: That begins, unless it is going on already.
            needed: Hospitals that are waited for; None: as before.
        """
        with self._lock:
            if phase != self._live.phase:
                self._update(phase=phase, since=_now())
            if needed is not None:
                self._update(needed=needed)

    def note(self, event: Event | AuditEvent) -> None:
        """Note what an event says of a hospital."""
        with self._lock:
            match event:
                case Joined():
                    self._absent.discard(event.site)
                    self._set(event.site, "waiting")
                case Left():
                    self._leave(event)
                case Lost():
                    gone = event.reason == CONNECTION_CLOSED
                    self._set(event.site, "gone" if gone else "late", reason=event.reason)
                case ReplyRejected():
                    self._set(event.site, "rejected", reason=event.reason)
                case Excluded():
                    self._set(event.site, "rejected", reason=f"excluded: {event.reason}")
                case AuditEvent(event="sent"):
                    self._set(event.details["site"], "waiting")
                case AuditEvent(event="received"):
                    self._set(event.details["site"], "done")

    def progress(self, name: str, progress: Progress) -> None:
        """Note how far a hospital is with the instruction that is going on."""
        with self._lock:
            if progress.identity == self._busy.get(name, self._identity):
                self._work(name, progress.phase, progress.share)

    def sending(self, name: str, identity: Identity) -> None:
        """Note that a hospital is done with an instruction, and that its weights are fetched."""
        with self._lock:
            if identity == self._busy.get(name, self._identity):
                self._work(name, "sending")

    def _leave(self, left: Left) -> None:
        """Who is late is cut off; what it was late with is worth knowing until the next round."""
        self._absent.add(left.site)
        known = self._live.hospitals.get(left.site)
        if known is None or known.doing not in ("late", "gone") or left.reason:
            self._set(left.site, "gone", reason=left.reason)

    def _work(self, name: str, doing: Doing, share: float | None = None) -> None:
        known = self._live.hospitals.get(name)
        if known is None or known.doing in ("waiting", "scoring", "training"):
            self._set(name, doing, share)

    def _set(
        self, name: str, doing: Doing, share: float | None = None, *, reason: str = ""
    ) -> None:
        known = self._live.hospitals.get(name)
        since = known.since if known is not None and known.doing == doing else _now()
        self._live.hospitals[name] = HospitalLive(
            doing=doing, since=since, share=share, reason=reason
        )
        self.changed.set()

    def _update(self, **fields: object) -> None:
        self._live = self._live.model_copy(update=fields)
        self.changed.set()


class LiveWriter:
    """Writes ``live.json`` about once a second while there is something new; a context manager.

    A file that cannot be written is told of once and ends nothing: what the run cannot do without
    is written elsewhere.

    Args:
        folder: The run's.
        state: What is written.
    """

    def __init__(self, folder: Path, state: LiveState) -> None:
        self._file = folder / LIVE
        self._state = state
        self._over = Flag()
        self._failed = False
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(LAST_SECONDS)

    def _run(self) -> None:
        self._write()
        while not self._over.wait(WRITE_SECONDS):
            if self._state.changed.is_set():
                self._write()
        self._write()

    def _write(self) -> None:
        self._state.changed.clear()
        try:
            write_json(self._file, self._state.current().model_dump(mode="json"))
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.warning("%s is not written: %s", LIVE, error.strerror)
            self._failed = True


def _now() -> datetime:
    return datetime.now(UTC)
