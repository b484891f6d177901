"""What a report knows of one run: its records, and what of them every part of the page needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from common.errors import BadInput
from common.histograms import Histograms, total
from common.readings import FindingAuc, Pooled, aucs_of
from common.scores import AucByFinding, Scores, mean_auc
from server.run.events import Event, InitialModel, read_events
from server.run.histograms import read_histograms
from server.run.records import RoundRecord, RunStatus, Validation, read_rounds, read_run_status
from server.run.run_config import RunConfig, read_config

UNDEFINED = Validation(auc=None, auc_by_finding={})


@dataclass(frozen=True)
class Own:
    """How a hospital scored a model on its own validation films.

    Attributes:
        auc: Mean over the findings where it is defined.
        auc_by_finding: Of each finding.
        by_finding: The same with intervals and counts; empty: it told none.
        films: Number of its validation films.
    """

    auc: float | None
    auc_by_finding: AucByFinding
    by_finding: Mapping[str, FindingAuc] = field(default_factory=dict)
    films: int = 0


@dataclass(frozen=True)
class Run:
    """A run that has done at least one round; see :func:`read_run`.

    Attributes:
        name: The one that people chose, or the hash.
        folder: Where it is.
        config: What it was started with.
        status: How it stands.
        rounds: That are done.
        events: What happened.
        histograms: Of the hospitals' logits of the last model that has any, by hospital.
        histograms_of: The rounds done by that model.
    """

    name: str
    folder: Path
    config: RunConfig
    status: RunStatus
    rounds: list[RoundRecord]
    events: list[Event]
    histograms: dict[str, Histograms]
    histograms_of: int

    @property
    def last(self) -> RoundRecord:
        """The last round that is done."""
        return self.rounds[-1]

    @cached_property
    def hospitals(self) -> list[str]:
        """The names of all that took part or were asked to, sorted."""
        return sorted(set().union(*(record.cohort for record in self.rounds)))

    @cached_property
    def tests(self) -> dict[int, Scores]:
        """The scores on the test films, by rounds done."""
        found = [event.test for event in self.events if isinstance(event, InitialModel)]
        return dict(enumerate(found[:1])) | {r.round: r.test for r in self.rounds if r.test}

    @cached_property
    def validations(self) -> dict[int, Validation]:
        """The hospitals' mean AUC, by rounds done; a round's own is of the model before it."""
        found: dict[int, Validation] = {record.round - 1: record for record in self.rounds}
        if self.status.validation is not None:
            found[self.last.round] = self.status.validation
        return found

    @property
    def validation(self) -> Validation:
        """That of the last model; without AUCs if the run is not done."""
        return self.validations.get(self.last.round, UNDEFINED)

    @cached_property
    def pooled(self) -> dict[int, Pooled]:
        """The AUC of all hospitals' validation films together, by rounds done."""
        found = {r.round - 1: r.pooled for r in self.rounds if r.pooled is not None}
        if self.status.pooled is not None:
            found[self.last.round] = self.status.pooled
        return found

    @property
    def last_pooled(self) -> Pooled | None:
        """That of the last model that has one."""
        return self.pooled[max(self.pooled)] if self.pooled else None

    @cached_property
    def all_films(self) -> Histograms | None:
        """The hospitals' histograms added up."""
        return total(self.histograms.values())

    @cached_property
    def _own(self) -> dict[str, dict[int, Own]]:
        found: dict[str, dict[int, Own]] = {name: {} for name in self.hospitals}
        for record in self.rounds:
            for name, part in record.hospitals.items():
                if part.auc_by_finding is not None:
                    found[name][record.round - 1] = Own(
                        part.auc,
                        part.auc_by_finding,
                        part.auc_intervals or {},
                        part.validation_images,
                    )
        if self.histograms_of == self.last.round:
            for name, histograms in self.histograms.items():
                by_finding = aucs_of(histograms)
                aucs = {finding: of.auc for finding, of in by_finding.items()}
                films = histograms.films
                found.setdefault(name, {})[self.last.round] = Own(
                    mean_auc(aucs), aucs, by_finding, films
                )
        return found

    def own(self, hospital: str) -> dict[int, Own]:
        """Return how a hospital scored each model, by rounds done."""
        return self._own[hospital]


def read_run(folder: Path) -> Run:
    """Read a run's records.

    Raises:
        BadInput: There is no such run, one of its files is damaged, or no round is done.
    """
    config, status = read_config(folder), read_run_status(folder)
    rounds, events = read_rounds(folder), read_events(folder)
    if not rounds:
        raise BadInput(f"{folder}: no round is done yet; there is nothing to report")
    last = rounds[-1].round
    for number in (last + 1, last):
        if histograms := read_histograms(folder, number):
            break
    name = config.name or config.run_id
    return Run(name, folder, config, status, rounds, events, histograms, number - 1)
