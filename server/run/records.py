"""What a run writes of its rounds and its state, as typed records; needs no torch.

::

    config.json     :class:`server.run.run_config.RunConfig`
    status.json     RunStatus
    rounds.jsonl    one RoundRecord for each round that is done
    open.json       that of a round whose model is not scored yet
    events.jsonl    one :class:`server.run.events.Event` for each line

Everything that reads a run reads these models. Fields may be added with a default; none is renamed.
"""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from common.audit import is_being_written
from common.errors import BadInput, first_problem
from common.protocol import PrivacySpent
from common.readings import FindingAuc, Pooled
from common.runtime.status import Status, read_status
from common.scores import AucByFinding, AucOfAll, Scores

OPEN = "open.json"

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

    examples: int | None = Field(
        description="images that it trained on; None here and below: not told in a secure sum"
    )
    loss: float | None = Field(description="mean training loss; None: it is not told")
    auc: float | None = Field(description="of the received model on its own validation")
    auc_by_finding: AucByFinding | None
    validation_images: int
    validation_loss: float | None
    seconds: HospitalSeconds
    bytes: Bytes
    update_norm: float | None = Field(description="Euclidean norm of the change of its weights")
    pace: Pace | None = Field(None, description="None in records of earlier versions")
    cosine: float | None = Field(
        None, ge=-1, le=1, description="of its update to the change of the model in the round"
    )
    auc_intervals: dict[str, FindingAuc] | None = Field(
        None, description="of its own validation, from its histograms; None: it told none"
    )
    privacy: PrivacySpent | None = Field(
        None, description="with --dp: what the model tells of a film of its, or of the hospital"
    )
    weights_sha256: str | None
    stale: int = Field(
        0, ge=0, description="rounds by which the model that it trained was older; no scores then"
    )


class Validation(Record):
    """The hospitals' mean AUC on their own validation images."""

    auc: float | None
    auc_by_finding: AucByFinding


class SharedMean(Record):
    """What hospitals are told of all hospitals' scores of the final model."""

    hospitals: int = Field(description="that scored it")
    auc_by_finding: AucOfAll = Field(description="None where too few of them told theirs")


class AverageScores(Record):
    """How good the moving average of a run's models is."""

    test: Scores | None = Field(description="on the server's test shard")
    validation: Validation
    pooled: Pooled | None = Field(description="the same of all films together")


class SecureSum(Record):
    """What the server has learnt of the hospitals in a secure sum."""

    hospitals: list[str] = Field(description="in the sum")
    dropped: list[str] = Field(description="that went away, or were left out, on the way to it")
    films: int = Field(description="that they trained on")
    loss: float | None = Field(description="mean training loss over these; None: not told")
    norm: float = Field(description="Euclidean norm of the mean change of the parameters")
    seconds: float = Field(description="that it took, after the training")
    received: int = Field(description="bytes that the hospitals sent for it")


class RoundSeconds(Record):
    """Where a round's time went, in seconds."""

    hospitals: float
    average: float
    save: float = Field(description="beside the next round")
    test: float = Field(description="beside the next round")
    total: float = Field(description="without what was beside the next round")


class RoundRecord(Validation):
    """A round that is done. Its AUC is that of the model before the round."""

    round: int
    attempt: int
    lr: float | None = Field(
        None, description="learning rate of the hospitals' SGD; None in records of earlier versions"
    )
    loss: float | None = Field(
        description="mean training loss, weighted by examples; None: nobody told it"
    )
    test: Scores | None = Field(description="of the new model on the server's test shard")
    hospitals: dict[str, HospitalRecord]
    rejected: dict[str, str] = Field(description="the reason by the hospital's name")
    missing: list[str]
    drawn: dict[str, float] | None = Field(
        None,
        description="hospitals that were drawn, with their chances beside the others', 1 where all "
        "have the same; None: all were asked",
    )
    busy: list[str] = Field([], description="hospitals that went on with an earlier model")
    pooled: Pooled | None = Field(
        None, description="of all hospitals' validation films; None: no hospital told histograms"
    )
    secure: list[SecureSum] | None = Field(
        None, description="the sums of which the model is made; None: of the hospitals' updates"
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
    ema: AverageScores | None = Field(
        None, description="of the moving average of the models, if there is one"
    )


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
    ema: AverageScores | None = Field(
        None, description="of the moving average of the models, if there is one"
    )


ROUND = TypeAdapter(RoundRecord)


RecordT = TypeVar("RecordT")


def read_rounds(run: Path) -> list[RoundRecord]:
    """Return the rounds that are done; the run may still go on.

    Raises:
        BadInput: A line is damaged.
    """
    return read_lines(run / "rounds.jsonl", ROUND)


def read_open(run: Path) -> RoundRecord | None:
    """Return the round whose model is saved and not scored yet; None: there is none.

    Raises:
        BadInput: The file is damaged.
    """
    try:
        return ROUND.validate_json((run / OPEN).read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"{run / OPEN}: {error.strerror}; restore it from a backup") from None
    except ValidationError as error:
        raise BadInput(
            f"{run / OPEN}: damaged ({first_problem(error)}); restore it from a backup"
        ) from None


def read_run_status(run: Path) -> RunStatus:
    """Return how a run stands; one whose process was killed is told as stopped.

    Who may not read the audit log cannot tell the two apart, and is told what the run said last.

    Raises:
        BadInput: There is no such run, or the file is damaged.
    """
    status = read_status(run, RunStatus)
    if status.state in ("running", "waiting") and not is_being_written(run / "audit.jsonl"):
        reason = f"{status.state} when its process was killed; flower-server --resume goes on"
        return status.model_copy(update={"state": "stopped", "reason": reason})
    return status


def read_lines(
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
