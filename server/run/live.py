"""What a run is doing right now: ``live.json`` in its folder, replaced as things happen.

It says nothing that the other files lack once a round is done; whoever watches a run reads it.
"""

from typing import Literal

from pydantic import AwareDatetime, Field

from server.run.records import Record

Phase = Literal["waiting", "hospitals", "average", "save", "test", "closing"]
"""Of a round: waiting for a quorum, hospitals work, ...; closing: the final model is scored."""

Doing = Literal["waiting", "training", "sending", "done", "late", "rejected", "gone"]
"""Waiting: connected, with nothing to do or without an answer yet; late: it missed the deadline."""


class HospitalLive(Record):
    """What a hospital does right now, as far as the server knows."""

    doing: Doing
    since: AwareDatetime
    share: float | None = Field(None, ge=0, le=1, description="of its batches that are done")
    reason: str = Field("", description="why it is late, rejected or gone")


class Live(Record):
    """What a run does right now."""

    round: int = Field(description="the one that is going on; 0: none yet")
    attempt: int
    phase: Phase
    since: AwareDatetime = Field(description="of the phase")
    needed: int = Field(description="hospitals whose replies a round needs")
    hospitals: dict[str, HospitalLive]
