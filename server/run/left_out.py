"""Which hospitals a run has left out, in words for its report and its last log line."""

from collections.abc import Sequence

from server.run.events import Event, Excluded
from server.run.records import RoundRecord


def left_out(rounds: Sequence[RoundRecord], events: Sequence[Event]) -> dict[str, str]:
    """Return why replies of a hospital did not count, by its name, sorted.

    Args:
        rounds: That are done.
        events: Of the run.
    """
    excluded = {event.site: event.reason for event in events if isinstance(event, Excluded)}
    found = {}
    for name in sorted({*excluded, *(name for record in rounds for name in record.rejected)}):
        reasons = [record.rejected[name] for record in rounds if name in record.rejected]
        text = f"rejected in {len(reasons)} of {len(rounds)} rounds"
        reason = excluded.get(name) or reasons[-1]
        if name in excluded:
            text = f"excluded, {text}"
        found[name] = f"{text} ({reason})"
    return found
