"""What happens in a run: the lines of ``events.jsonl`` and of ``audit.jsonl``, as typed records.

They are told apart by their field ``event``. Fields may be added with a default; none is renamed.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter

from common.protocol import Hello
from common.readings import Pooled
from common.scores import Scores
from server.run.records import Bytes, Record, read_lines


class _Event(Record):
    """Something that happened; :meth:`server.run.log.RunLog.record` writes it."""

    in_events: ClassVar[bool] = True
    in_audit: ClassVar[bool] = True

    event: str
    time: str = Field("", description="UTC, ISO 8601; set when it is written")

    def fields(self) -> dict[str, Any]:
        """Return what stands in ``events.jsonl`` besides the time and the event's name."""
        return self.model_dump(mode="json", exclude={"event", "time"})

    def audit_fields(self) -> dict[str, Any]:
        """Return what stands in ``audit.jsonl`` besides the time and the event's name."""
        return self.fields()


class Joined(_Event):
    """A hospital was let in."""

    event: Literal["joined"] = "joined"
    site: str
    examples: int | None = Field(description="None: not told, for a secure sum")
    hello: Hello | None = Field(None, description="in the audit log alone")

    def fields(self) -> dict[str, Any]:
        """Return name and number of images."""
        return {"site": self.site, "examples": self.examples}

    def audit_fields(self) -> dict[str, Any]:
        """Return all that the hospital said of itself."""
        return {"site": self.site, "hello": self.hello.model_dump() if self.hello else None}


class Left(_Event):
    """A hospital's connection was closed."""

    in_audit: ClassVar[bool] = False

    event: Literal["left"] = "left"
    site: str
    reason: str = Field("", description="why the server has closed it")


class Refused(_Event):
    """A hospital may not take part, or not any more."""

    event: Literal["refused"] = "refused"
    site: str
    reason: str
    times: int = Field(1, description="that it was, since the last line that says so")


CONNECTION_CLOSED = "its connection was closed"
"""Why a hospital is lost that went away by itself."""


class Lost(_Event):
    """A hospital's reply did not come."""

    event: Literal["lost"] = "lost"
    site: str
    round: int
    attempt: int
    reason: str


class ReplyRejected(_Event):
    """A hospital's reply was not averaged."""

    event: Literal["rejected"] = "rejected"
    site: str
    round: int
    attempt: int
    reason: str


class Unusual(_Event):
    """An update was far faster than others, and counted all the same."""

    event: Literal["unusual"] = "unusual"
    site: str
    round: int
    attempt: int
    reason: str


class OwnStateLost(_Event):
    """A hospital no longer has what it kept of its own, and began again with what was sent."""

    event: Literal["own state lost"] = "own state lost"
    site: str
    round: int = Field(description="in which it began again")
    attempt: int
    reason: str


class Excluded(_Event):
    """A hospital was excluded after bad replies."""

    event: Literal["excluded"] = "excluded"
    site: str
    reason: str


class Repeated(_Event):
    """An attempt had too few good replies."""

    in_audit: ClassVar[bool] = False

    event: Literal["repeated"] = "repeated"
    round: int
    attempt: int
    hospitals: list[str] = Field(description="with a good reply")
    rejected: list[str] = Field(description="with a bad one that is their own fault")


class Changed(_Event):
    """An option has another value from the next round on, as the operator asked."""

    event: Literal["changed"] = "changed"
    round: int = Field(description="the last one with the old value")
    option: str
    old: float
    new: float


class Resumed(_Event):
    """The rounds go on."""

    in_audit: ClassVar[bool] = False

    event: Literal["resumed"] = "resumed"
    round: int = Field(description="the last one that is done")


class StoppedEarly(_Event):
    """No further round is worth it."""

    event: Literal["stopped early"] = "stopped early"
    round: int = Field(description="the last one that is done")
    reason: str


class CanaryHospital(Record):
    """What a hospital's part of a canary has shown; what is not known is None."""

    ok: bool
    reason: str = Field("", description="why it failed")
    examples: int | None = Field(None, description="films that it trained on")
    loss: float | None = None
    batch_seconds: float | None = Field(None, description="of training, for each batch")
    bytes: Bytes | None = None
    memory: int | None = Field(
        None, description="most bytes in use, of the accelerator or of the process"
    )
    round_seconds: float | None = Field(None, description="that a round will take there")


class CanaryRound(_Event):
    """What a few batches from each hospital have shown before the first round."""

    in_audit: ClassVar[bool] = False

    event: Literal["canary"] = "canary"
    needed: int = Field(description="hospitals that must be fine for the run to go on")
    seconds: float
    hospitals: dict[str, CanaryHospital]
    round_seconds: float | None = Field(description="that a round will take; None: nobody is fine")
    run_seconds: float | None


class InitialModel(_Event):
    """How good the first model is on the server's test shard."""

    in_audit: ClassVar[bool] = False

    event: Literal["initial model"] = "initial model"
    test: Scores


class FinalModel(_Event):
    """How good the last model is at the hospitals; a run that goes on chooses by it too."""

    in_audit: ClassVar[bool] = False

    event: Literal["final model"] = "final model"
    round: int = Field(description="after which it was made")
    auc: float | None = Field(
        description="the hospitals' mean AUC; None: none tells one, or fewer than a round needs "
        "answered, so that the model cannot be the best one"
    )
    pooled: Pooled | None = Field(description="of all films together")


class AuditEvent(_Event):
    """What stands in the audit log alone.

    Attributes:
        details: Its fields.
    """

    in_events: ClassVar[bool] = False

    event: Literal["started", "resumed", "finished", "sent", "received", "averaged"]
    details: dict[str, Any]

    def audit_fields(self) -> dict[str, Any]:
        """Return the fields."""
        return self.details


Event = Annotated[
    Joined
    | Left
    | Refused
    | Lost
    | ReplyRejected
    | Unusual
    | OwnStateLost
    | Excluded
    | Repeated
    | Changed
    | Resumed
    | StoppedEarly
    | CanaryRound
    | InitialModel
    | FinalModel,
    Field(discriminator="event"),
]
"""A line of ``events.jsonl``."""


EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def read_events(run: Path, *, damaged_too: bool = False) -> list[Event]:
    """Return the events so far; the run may still go on.

    Args:
        run: The run's folder.
        damaged_too: Pass over damaged lines; events do not decide whether a run goes on.

    Raises:
        BadInput: A line is damaged.
    """
    return read_lines(run / "events.jsonl", EVENT, damaged_too)
