"""One call for what happens in a run: the event, the audit line and the log line."""

import logging
from collections.abc import Callable
from pathlib import Path

from common.audit import AuditLog
from common.runtime.files import append_json, now
from common.runtime.logs import fields
from server.run.events import (
    AuditEvent,
    Changed,
    Event,
    Excluded,
    Joined,
    Left,
    Lost,
    OwnStateLost,
    Refused,
    ReplyRejected,
    StoppedEarly,
    Unusual,
)

log = logging.getLogger(__name__)


class RunLog:
    """Writes ``events.jsonl``, ``audit.jsonl`` and the log's lines of a run.

    Args:
        run: The run's folder.
        follow: Is told of everything that was written.

    Raises:
        BadInput: The audit log cannot be opened, or another server has it.
    """

    def __init__(
        self, run: Path, follow: Callable[[Event | AuditEvent], None] = lambda _event: None
    ) -> None:
        self._follow = follow
        self._events = run / "events.jsonl"
        self._audit = AuditLog(run / "audit.jsonl")

    def close(self) -> None:
        """Let go of the audit log."""
        self._audit.close()

    def record(self, *events: Event | AuditEvent) -> None:
        """Write events wherever they belong, from any thread; on disk when this returns.

        Raises:
            OSError: They cannot be written.
        """
        for event in events:
            _say(event)
            if event.in_events:
                append_json(self._events, {"time": now(), "event": event.event, **event.fields()})
        if audited := [(e.event, e.audit_fields()) for e in events if e.in_audit]:
            self._audit.write_all(audited)
        for event in events:
            self._follow(event)


def _say(event: Event | AuditEvent) -> None:
    told = fields(event.event, **event.fields()) if event.in_events else {}
    match event:
        case Joined():
            with_what = f", fedcxr {event.hello.version}" if event.hello else ""
            films = "" if event.examples is None else f" with {event.examples} images"
            log.info("%s joined%s%s", event.site, films, with_what, extra=told)
        case Left():
            log.info("%s left", event.site, extra=told)
        case Refused():
            times = f" {event.times} times" if event.times > 1 else ""
            log.warning("%s refused%s: %s", event.site, times, event.reason, extra=told)
        case Lost() | ReplyRejected() | Unusual() | OwnStateLost():
            log.warning("  %-20s %s: %s", event.site, event.event, event.reason, extra=told)
        case Changed():
            log.warning(
                "--change: %s is %g from round %d on, it was %g",
                event.option,
                event.new,
                event.round + 1,
                event.old,
                extra=told,
            )
        case StoppedEarly():
            log.info("the run ends after round %d: %s", event.round, event.reason, extra=told)
        case Excluded():
            log.warning(
                "%s is excluded after bad replies: %s; to let it in again, remove "
                "excluded/%s.json and start its client",
                event.site,
                event.reason,
                event.site,
                extra=told,
            )
