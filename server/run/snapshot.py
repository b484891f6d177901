"""A run at one instant, small enough to be drawn once a second; JSON for those who are elsewhere.

It holds what hospitals have told the server and nothing else: what a site's policy withholds has
never arrived here.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, Field, ValidationError

from common.readings import Pooled
from common.scores import AucByFinding
from server.rounds.choosing import Choice
from server.rounds.progress import Progress
from server.run.events import read_events
from server.run.forecast import seconds_left
from server.run.left_out import left_out
from server.run.live import LIVE, Live
from server.run.records import (
    Bytes,
    HospitalRecord,
    Record,
    RoundRecord,
    RunState,
    Validation,
    read_rounds,
    read_run_status,
)
from server.run.run_config import RunConfig, read_config


class RoundSummary(Record):
    """A round that is done."""

    round: int
    seconds: float
    loss: float | None
    test_auc: float | None = Field(description="of the new model on the server's test shard")
    images: int = Field(description="trained on by all hospitals, as often as that was")
    bytes: Bytes = Field(description="of all hospitals")
    hospitals: int = Field(description="that count")
    rejected: dict[str, str] = Field(description="the reason by the hospital's name")
    missing: list[str]
    busy: list[str] = Field([], description="that went on with an earlier model")
    stale: dict[str, int] = Field({}, description="rounds that replies which count were behind")


class ModelAuc(Record):
    """How good a round's model is on the hospitals' validation films."""

    mean: float | None = Field(description="of the hospitals' AUCs")
    pooled: float | None = Field(description="of all films together; None: no histograms")
    by_finding: AucByFinding = Field(description="pooled where there are histograms")


class HospitalSummary(Record):
    """A hospital's part of the last round in which it counted."""

    round: int
    examples: int | None = Field(description="images that it trained on; None: not told")
    loss: float | None
    auc: float | None = Field(description="of the received model on its own validation")
    validation_images: int
    images_per_second: float | None = Field(description="in training; None: too fast to tell")
    stale: int = Field(0, description="rounds that its reply was behind")


class Snapshot(Record):
    """A run at one instant."""

    time: AwareDatetime
    run: str
    architecture: str
    strategy: str
    state: RunState
    reason: str = Field("", description="of its end")
    rounds: int = Field(description="that the run is to have")
    history: list[RoundSummary]
    models: list[ModelAuc] = Field(description="from the initial one on, as far as scored")
    hospitals: dict[str, HospitalSummary]
    left_out: dict[str, str] = Field(description="why replies did not count, by the name")
    best_round: int | None = Field(None, description="whose model has the best AUC so far")
    seconds_left: float | None = Field(None, description="None: over, or no round is done yet")
    live: Live | None = Field(None, description="None: over, or not told")


def snapshot_of(run: Path, live: Live | None = None) -> Snapshot:
    """Return a run as its folder tells it; it may still be written.

    Args:
        run: The folder.
        live: What the run does now; None: as ``live.json`` has it.

    Raises:
        BadInput: There is no such run, or a file of it is damaged.
    """
    config, status = read_config(run), read_run_status(run)
    records, events = read_rounds(run), read_events(run, damaged_too=True)
    rounds = status.rounds or config.rounds
    over = status.state not in ("running", "waiting")
    choice = Choice(config.believes_claims)
    best = Progress.of(records, events, choice).best
    models = [_auc(record, record.pooled) for record in records]
    if status.validation is not None:
        models.append(_auc(status.validation, status.pooled))
    return Snapshot(
        time=datetime.now(UTC),
        run=config.run_id,
        architecture=config.architecture,
        strategy=config.strategy,
        state=status.state,
        reason=status.reason or "",
        rounds=rounds,
        history=[_summary(record, config) for record in records],
        models=models,
        hospitals=_hospitals(records, config),
        left_out=left_out(records, events),
        best_round=status.best_round or (best[1] if best else None),
        seconds_left=None if over else _left(records, rounds),
        live=None if over else live or _read_live(run),
    )


def _left(records: Sequence[RoundRecord], rounds: int) -> float | None:
    return seconds_left([record.seconds.total for record in records], rounds)


def _auc(mean: Validation, pooled: Pooled | None) -> ModelAuc:
    if pooled is None:
        return ModelAuc(mean=mean.auc, pooled=None, by_finding=mean.auc_by_finding)
    by_finding = {finding: of.auc for finding, of in pooled.by_finding.items()}
    return ModelAuc(mean=mean.auc, pooled=pooled.auc, by_finding=by_finding)


def _summary(record: RoundRecord, config: RunConfig) -> RoundSummary:
    hospitals = record.hospitals.values()
    return RoundSummary(
        round=record.round,
        seconds=record.seconds.total,
        loss=record.loss,
        test_auc=record.test.auc if record.test else None,
        images=config.epochs_in(record.round) * films_of(record),
        bytes=Bytes(
            received=sum(each.bytes.received for each in hospitals),
            sent=sum(each.bytes.sent for each in hospitals),
        ),
        hospitals=len(hospitals),
        rejected=record.rejected,
        missing=record.missing,
        busy=record.busy,
        stale={name: each.stale for name, each in record.hospitals.items() if each.stale},
    )


def films_of(record: RoundRecord) -> int:
    """Return how many films all hospitals together trained on."""
    if record.secure is not None:
        return sum(each.films for each in record.secure)
    return sum(each.examples or 0 for each in record.hospitals.values())


def _hospitals(records: Sequence[RoundRecord], config: RunConfig) -> dict[str, HospitalSummary]:
    last: dict[str, tuple[int, HospitalRecord]] = {}
    for record in records:
        last.update({name: (record.round, part) for name, part in record.hospitals.items()})
    return {
        name: HospitalSummary(
            round=number,
            examples=part.examples,
            loss=part.loss,
            auc=part.auc,
            validation_images=part.validation_images,
            images_per_second=config.epochs_in(number) * part.examples / part.seconds.train
            if part.seconds.train and part.examples is not None
            else None,
            stale=part.stale,
        )
        for name, (number, part) in sorted(last.items())
    }


def _read_live(run: Path) -> Live | None:
    """Return ``live.json``; None if there is none that this version understands."""
    try:
        return Live.model_validate_json((run / LIVE).read_bytes())
    except (OSError, ValidationError):
        return None
