"""What a run writes, as typed records; needs neither torch nor scikit-learn.

::

    config.json     RunConfig
    status.json     RunStatus
    rounds.jsonl    one RoundRecord for each round that is done
    events.jsonl    one Event for each line, told apart by its field ``event``

Everything that reads a run reads these models. Fields may be added with a default; none is renamed.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from common.audit import is_being_written
from common.errors import BadInput, first_problem
from common.options import StrategyName, Training
from common.protocol import Hello
from common.readings import FindingAuc, Pooled
from common.runtime.status import Status, read_status
from common.scores import AucByFinding, AucOfAll, Scores

RunState = Literal["running", "waiting", "finished", "no quorum", "stopped", "failed"]


ChosenBy = Literal["pooled", "mean"]
"""Validation AUC that chooses the best model: that of all films, or the hospitals' mean."""


class Record(BaseModel):
    """Base of what stands in a run's files."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class HospitalSeconds(Record):
    """Where a hospital's part of a round went, in seconds."""

    receive: float = Field(description="the rest of the time until the reply")
    wait: float = Field(description="for a slot on a shared machine")
    evaluate: float
    train: float
    send: float = Field(description="until the server had the weights")


class Bytes(Record):
    """Bytes of weights, as the hospital sees them."""

    received: int
    sent: int


class Pace(Record):
    """How fast an update moves; see :mod:`server.rounds.pace`."""

    parameters: float = Field(description="norm of their change, for each effective step")
    statistics: float = Field(description="norm of the change of BatchNorm's, had it gone its way")


class HospitalRecord(Record):
    """A hospital's part of a round that counted."""

    examples: int = Field(description="images that it trained on")
    loss: float = Field(description="mean training loss")
    auc: float | None = Field(description="of the received model on its own validation")
    auc_by_finding: AucByFinding | None
    validation_images: int
    validation_loss: float | None
    seconds: HospitalSeconds
    bytes: Bytes
    update_norm: float = Field(description="Euclidean norm of the change of its weights")
    pace: Pace | None = Field(None, description="None in records of earlier versions")
    cosine: float | None = Field(
        None, ge=-1, le=1, description="of its update to the change of the model in the round"
    )
    auc_intervals: dict[str, FindingAuc] | None = Field(
        None, description="of its own validation, from its histograms; None: it told none"
    )
    weights_sha256: str | None


class Validation(Record):
    """The hospitals' mean AUC on their own validation images."""

    auc: float | None
    auc_by_finding: AucByFinding


class SharedMean(Record):
    """What hospitals are told of all hospitals' scores of the final model."""

    hospitals: int = Field(description="that scored it")
    auc_by_finding: AucOfAll = Field(description="None where too few of them told theirs")


class RoundSeconds(Record):
    """Where a round's time went, in seconds."""

    hospitals: float
    average: float
    save: float
    test: float
    total: float


class RoundRecord(Validation):
    """A round that is done. Its AUC is that of the model before the round."""

    round: int
    attempt: int
    loss: float = Field(description="mean training loss, weighted by examples")
    test: Scores | None = Field(description="of the new model on the server's test shard")
    hospitals: dict[str, HospitalRecord]
    rejected: dict[str, str] = Field(description="the reason by the hospital's name")
    missing: list[str]
    pooled: Pooled | None = Field(
        None, description="of all hospitals' validation films; None: no hospital told histograms"
    )
    seconds: RoundSeconds
    model_sha256: str

    @property
    def cohort(self) -> set[str]:
        """The hospitals that took part, or were asked to."""
        return {*self.hospitals, *self.rejected, *self.missing}


class RunStatus(Status):
    """How a run stands, or how it ended."""

    state: RunState
    round: int | None = Field(None, description="the last one that is done")
    rounds: int | None = Field(None, description="that the run is to have")
    hospitals: int | None = Field(None, description="that are there, while it waits for more")
    needed: int | None = Field(None, description="how many it waits for")
    best_round: int | None = None
    best_by: ChosenBy | None = Field(None, description="the AUC that chose the best model")
    validation: Validation | None = Field(None, description="of the last model")
    pooled: Pooled | None = Field(None, description="the same of all films together")
    shared: SharedMean | None = Field(None, description="if the model is shared")


class Result(Record):
    """What a run that is done came to."""

    round: int = Field(description="the last one that is done")
    rounds: int = Field(description="that the run was to have")
    reason: str | None = Field(description="why it has fewer; None: it has them all")
    best_round: int
    best_by: ChosenBy | None = Field(description="the AUC that chose the best model; None: none")
    validation: Validation = Field(description="of the last model")
    pooled: Pooled | None = Field(None, description="the same of all films together")
    shared: SharedMean | None = Field(None, description="if the model is shared")


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
    examples: int
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


class RunConfig(Training):
    """What a run was started with; other options than those named here are kept as they are."""

    model_config = ConfigDict(extra="allow", frozen=True)

    run_id: str
    name: str | None = Field(None, description="that people chose")
    init: str
    rounds: int
    architecture: str
    strategy: StrategyName
    seed: int
    image_size: int | None = None
    init_sha256: str | None = None
    test_sha256: str | None = None
    test_positives: dict[str, int] | None = Field(
        None, description="test films that have each finding; None: no test, or not recorded"
    )
    origin: dict[str, Any] | None = Field(
        None, description="provenance of the first model; None in runs of earlier versions"
    )
    versions: dict[str, str] = Field({}, description="of the server's programs")
    changes: tuple[Changed, ...] = Field((), description="made when the run went on")

    def epochs_in(self, number: int) -> int:
        """Return how many epochs hospitals train in a round."""
        changed = [
            change.new
            for change in self.changes
            if change.option == "local_epochs" and change.round < number
        ]
        return int(changed[-1]) if changed else self.local_epochs


Event = Annotated[
    Joined
    | Left
    | Refused
    | Lost
    | ReplyRejected
    | Unusual
    | Excluded
    | Repeated
    | Changed
    | Resumed
    | StoppedEarly
    | CanaryRound
    | InitialModel,
    Field(discriminator="event"),
]
"""A line of ``events.jsonl``."""

EVENT: TypeAdapter[Event] = TypeAdapter(Event)
ROUND = TypeAdapter(RoundRecord)

RecordT = TypeVar("RecordT")


def read_rounds(run: Path) -> list[RoundRecord]:
    """Return the rounds that are done; the run may still go on.

    Raises:
        BadInput: A line is damaged.
    """
    return _read_lines(run / "rounds.jsonl", ROUND)


def read_events(run: Path, *, damaged_too: bool = False) -> list[Event]:
    """Return the events so far; the run may still go on.

    Args:
        run: The run's folder.
        damaged_too: Pass over damaged lines; events do not decide whether a run goes on.

    Raises:
        BadInput: A line is damaged.
    """
    return _read_lines(run / "events.jsonl", EVENT, damaged_too)


def read_run_status(run: Path) -> RunStatus:
    """Return how a run stands; one whose process was killed is told as stopped.

    Raises:
        BadInput: There is no such run, or the file is damaged.
    """
    status = read_status(run, RunStatus)
    if status.state in ("running", "waiting") and not is_being_written(run / "audit.jsonl"):
        reason = f"{status.state} when its process was killed; flower-server --resume goes on"
        return status.model_copy(update={"state": "stopped", "reason": reason})
    return status


def read_config(run: Path) -> RunConfig:
    """Return what a run was started with.

    Raises:
        BadInput: There is no such run, or the file is damaged.
    """
    path = run / "config.json"
    try:
        return RunConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInput(
            f"{path}: {error.strerror}; name the folder of a run that was started"
        ) from None
    except ValidationError as error:
        raise BadInput(f"{path}: {first_problem(error)}; restore it from a backup") from None


def _read_lines(
    path: Path, records: TypeAdapter[RecordT], damaged_too: bool = False
) -> list[RecordT]:
    """Return the records in a file, without a last line that is being written."""
    try:
        whole, _, _ = path.read_bytes().rpartition(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; restore it from a backup") from None
    found = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            found.append(records.validate_json(line))
        except ValidationError as error:
            if damaged_too:
                continue
            raise BadInput(
                f"{path}, line {number}: damaged ({first_problem(error)}); restore it from a backup"
            ) from None
    return found
