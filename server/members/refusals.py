"""What is written of refusals: a client that comes again and again must not fill the files."""

from dataclasses import dataclass
from threading import Lock
from time import monotonic

from server.run.events import Refused
from server.run.log import RunLog

AGAIN_SECONDS = 3600.0
"""After which the same refusal of the same hospital is written again."""

MOST_NAMES = 1000
"""Hospitals whose refusals are remembered: without TLS a client may say any name."""


@dataclass
class _Written:
    reason: str
    since: float
    unwritten: int = 0


class Refusals:
    """Writes a hospital's first refusal, and each for another reason; counts the same again.

    The count is written with the first one that comes an hour later. The audit log has the same
    lines as the events: a client that is refused is sent nothing, and nothing of it is used, so
    that how often it tried is all there is to keep. What was counted in the last hour before the
    server ends is lost.

    Args:
        log: The run's.
    """

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._lock = Lock()
        self._last: dict[str, _Written] = {}  # by the hospital's name

    def record(self, site: str, reason: str) -> None:
        """Write a refusal, or count it; from any thread.

        Raises:
            OSError: It cannot be written.
        """
        with self._lock:
            now, times = monotonic(), 1
            last = self._last.get(site)
            if last is not None and last.reason == reason:
                if now - last.since < AGAIN_SECONDS:
                    last.unwritten += 1
                    return
                times += last.unwritten
            self._log.record(Refused(site=site, reason=reason, times=times))
            self._last.pop(site, None)
            if len(self._last) == MOST_NAMES:
                del self._last[next(iter(self._last))]
            self._last[site] = _Written(reason, now)

    def forget(self, site: str) -> None:
        """Note that a hospital was let in: its next refusal is another one."""
        with self._lock:
            self._last.pop(site, None)
