"""What trackers are told of a run: curves, settings and, once it is done, the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NamedTuple

from common.findings import FINDINGS
from common.readings import Pooled
from common.runtime.cli import Stopped
from common.scores import AucByFinding, Scores
from common.track.base import End, Model, Scalar, TrackedRun
from common.track.options import TrackerName
from common.track.trackers import Trackers
from server.rounds.plan import Plan
from server.run.events import InitialModel
from server.run.folder import RunFolder
from server.run.records import HospitalRecord, RoundRecord, RunStatus, Validation

REGISTERED = "fedcxr"
"""Name of the registered model; each run makes a version of it."""

OF_CONFIG = ("image_size", "init_sha256", "test_sha256")
"""Of ``config.json``: what is sent besides the plan. Paths and addresses are not."""


class Curves(NamedTuple):
    """Values of curves with the same prefix, at the same step."""

    series: str
    step: int
    values: dict[str, float | None]


class Tracking:
    """Tells trackers of a run.

    Args:
        names: Which trackers.
        plan: How the run is to go.
        folder: The run's; rounds that are done already are told first.
    """

    def __init__(self, names: list[TrackerName], plan: Plan, folder: RunFolder) -> None:
        self._plan, self._folder = plan, folder
        config = settings_of(plan, folder.config)
        run = TrackedRun(plan.run, folder.path.resolve().name, folder.path, "round", config)
        self._trackers = Trackers(names, run, "rounds.jsonl")
        left = folder.open_round
        for record in folder.rounds():
            if left is None or record.round != left.round:
                self.on_round(record)
        folder.observers.append(self.on_round)

    def on_round(self, record: RoundRecord) -> None:
        """Tell of a round that is done."""
        if record.round == 1:
            for event in self._folder.events():
                if isinstance(event, InitialModel):
                    self._trackers.points("test", 0, _scores(event.test))
        for curves in curves_of(record):
            self._trackers.points(*curves)

    def finish(self, ended: RunStatus) -> None:
        """Tell of the last model."""
        number = ended.round or self._plan.rounds  # earlier versions wrote no round here
        if ended.validation is not None:
            values = _validation(ended.validation, ended.pooled)
            self._trackers.points("validation", number, values)
        if not self._plan.one_model:
            return
        final, best = (self._folder.path / name for name in ("final.pt", "best.pt"))
        text = (
            f"The model of the federated run {self._folder.path.resolve().name} ({self._plan.run}) "
            f"after {number} rounds.\n\n"
            f"- `final.pt`: after the last round\n"
            f"- `best.pt`: after round {ended.best_round}, best on the hospitals' own validation\n"
            "\nBoth are read with `torch.load(path, weights_only=True)`, where `state_dict` has "
            "torchvision's weights and `input` tells what the model takes, or with "
            "`flower-predict`. Not a medical device.\n"
        )
        self._trackers.model(Model(REGISTERED, (final, best), text))

    def close(self, end: End) -> None:
        """Tell how the run ended."""
        self._trackers.close(end)


@contextmanager
def tracking(names: list[TrackerName], plan: Plan, folder: RunFolder) -> Iterator[Tracking]:
    """Tell trackers of a run within the block, and then how it ended."""
    told = Tracking(names, plan, folder)
    end: End = "failed"
    try:
        yield told
        end = "finished"
    except Stopped:
        end = "stopped"
        raise
    finally:
        told.close(end)


def settings_of(plan: Plan, config: dict[str, Any]) -> dict[str, Scalar]:
    """Return a run's settings, flat, without paths and addresses."""
    steps = ",".join(map(str, plan.schedule.lr_steps))
    fields = asdict(plan) | plan.training.model_dump() | plan.participation.model_dump()
    fields |= plan.strategy.model_dump(exclude={"strategy_args"})
    fields |= plan.schedule.model_dump() | {"lr_steps": steps, "run": plan.run}
    fields |= plan.secure.model_dump()
    del fields["training"], fields["participation"], fields["secure"]
    versions = {f"version.{name}": text for name, text in config.get("versions", {}).items()}
    return {**fields, **{name: config.get(name) for name in OF_CONFIG}, **versions}


def curves_of(record: RoundRecord) -> list[Curves]:
    """Return what a round adds to the curves; the step is the number of rounds done.

    The hospitals' validation is of the model before the round, and so belongs to that step.
    """
    before, number = record.round - 1, record.round
    validation, of_round = _validation(record, record.pooled), _round(record)
    for name, hospital in record.hospitals.items():
        prefix = f"hospital/{name}/"
        validation |= {prefix + key: value for key, value in _own_validation(hospital).items()}
        of_round |= {prefix + key: value for key, value in _part(hospital).items()}
    curves = [Curves("validation", before, validation), Curves("round", number, of_round)]
    if record.test is not None:
        curves.append(Curves("test", number, _scores(record.test)))
    return curves


def _validation(mean: Validation, pooled: Pooled | None) -> dict[str, float | None]:
    values = {"auc": mean.auc, **_by_finding(mean.auc_by_finding)}
    if pooled is not None:
        aucs = {finding: found.auc for finding, found in pooled.by_finding.items()}
        of_all = {"auc": pooled.auc, **_by_finding(aucs)}
        values |= {f"pooled/{name}": value for name, value in of_all.items()}
    return values


def _scores(scores: Scores) -> dict[str, float | None]:
    return {"auc": scores.auc, "loss": scores.loss, **_by_finding(scores.auc_by_finding)}


def _by_finding(aucs: AucByFinding) -> dict[str, float | None]:
    return {f"auc/{finding}": aucs.get(finding) for finding in FINDINGS}


def _round(record: RoundRecord) -> dict[str, float | None]:
    hospitals = record.hospitals.values()
    return {
        "loss": record.loss,
        "lr": record.lr,
        "hospitals": len(record.hospitals),
        "rejected": len(record.rejected),
        "missing": len(record.missing),
        "attempts": record.attempt,
        "bytes/to_hospitals": sum(hospital.bytes.received for hospital in hospitals),
        "bytes/from_hospitals": sum(hospital.bytes.sent for hospital in hospitals),
        **{f"seconds/{name}": value for name, value in record.seconds},
    }


def _own_validation(hospital: HospitalRecord) -> dict[str, float | None]:
    return {
        "auc": hospital.auc,
        "loss": hospital.validation_loss,
        "images": hospital.validation_images,
    }


def _part(hospital: HospitalRecord) -> dict[str, float | None]:
    return {
        "loss": hospital.loss,
        "examples": hospital.examples,
        "update_norm": hospital.update_norm,
        "bytes/received": hospital.bytes.received,
        "bytes/sent": hospital.bytes.sent,
        **{f"seconds/{name}": value for name, value in hospital.seconds},
    }
