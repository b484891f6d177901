"""What the files of a run and its present state are as metrics.

What a hospital does not tell, as its policy withholds it, has no sample: it is absent, not 0.
"""

import os
import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from time import time
from typing import NamedTuple, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from common.readings import Pooled
from common.runtime.status import read_status
from server.metrics.names import METRICS, PREFIX
from server.metrics.rejections import REASONS, class_of
from server.rounds.choosing import Choice
from server.rounds.progress import Progress
from server.run.events import Event, Excluded, Joined, Left, Lost, Repeated, ReplyRejected
from server.run.folder import RunFolder
from server.run.forecast import seconds_left
from server.run.live import Doing, Live, Phase
from server.run.records import (
    HospitalRecord,
    RoundRecord,
    RoundSeconds,
    RunState,
    RunStatus,
    Validation,
)
from server.run.run_config import RunConfig

Family = CounterMetricFamily | GaugeMetricFamily

USUAL = 10
"""Rounds whose median duration is the usual one."""

BESIDE = ("save", "test")
"""Phases that go on beside the next round: of 0 s until they are done."""

FEWEST = 3
"""Rounds without which there is no usual duration."""

AWAY = ("late", "gone")
"""What a hospital does that is not connected; see :data:`server.run.live.Doing`."""


SEEN = (Joined, Left, Lost, ReplyRejected)
"""Events of a hospital that is connected, or was until then."""


class Facts(NamedTuple):
    """What a run has written so far, and what it does now.

    Attributes:
        folder: The run's.
        version: Of FedCXR.
        config: What it was started with.
        status: How it stands.
        live: What it does now; None: nothing any more.
        rounds: Those that are done.
        events: So far.
        now: In seconds since 1970.
    """

    folder: Path
    version: str
    config: RunConfig
    status: RunStatus
    live: Live | None
    rounds: Sequence[RoundRecord]
    events: Sequence[Event]
    now: float


def facts_of(folder: RunFolder) -> Facts:
    """Return what is known of the run of this process; its rounds are in memory.

    Raises:
        BadInput: A file of the run is damaged.
    """
    status = read_status(folder.path, RunStatus)
    return Facts(
        folder=folder.path,
        version=version("fedcxr"),
        config=RunConfig.model_validate(folder.config),
        status=status,
        live=folder.live.current() if status.state in ("running", "waiting") else None,
        rounds=tuple(folder.rounds()),
        events=folder.events(),
        now=time(),
    )


class Families:
    """Collects samples under the names and labels of :data:`METRICS`."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        for name, described in METRICS.items():
            kind = CounterMetricFamily if described.kind == "counter" else GaugeMetricFamily
            self._families[name] = kind(PREFIX + name, described.text, labels=described.labels)

    def add(self, name: str, value: float | None, *labels: str) -> None:
        """Add a sample; None: there is none."""
        if value is not None:
            self._families[name].add_metric(labels, value)

    def add_one_of(self, name: str, chosen: str, choices: Collection[str], *labels: str) -> None:
        """Add a sample for each choice: 1 for the chosen one, 0 for the others."""
        for choice in choices:
            self.add(name, float(choice == chosen), *labels, choice)

    def __iter__(self) -> Iterator[Family]:
        """Yield the families that have samples."""
        return (family for family in self._families.values() if family.samples)


class RunCollector(Collector):
    """The metrics of the run of this process, as they are at each scrape.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def collect(self) -> Families:
        """Return the metrics as they are now.

        Raises:
            BadInput: A file of the run is damaged.
        """
        return families_of(facts_of(self._folder))


def families_of(facts: Facts) -> Families:
    """Return the metrics of a run."""
    found = Families()
    _add_run(found, facts)
    _add_rounds(found, facts)
    _add_scores(found, facts)
    if facts.live is not None:
        _add_live(found, facts.live)
        _add_last_seen(found, facts.live, facts)
    _add_hospitals(found, facts.rounds)
    _add_counts(found, facts)
    return found


def _add_run(found: Families, facts: Facts) -> None:
    config, disk = facts.config, os.statvfs(facts.folder)
    init = Path(config.init).name
    labels = (config.run_id, facts.version, config.architecture, config.strategy, config.mode, init)
    found.add("run_info", 1, *labels)
    found.add_one_of("run_state", facts.status.state, get_args(RunState))
    found.add("run_folder_free_bytes", disk.f_bavail * disk.f_frsize)


def _add_rounds(found: Families, facts: Facts) -> None:
    rounds, planned = facts.rounds, facts.status.rounds
    found.add("planned_rounds", planned)
    found.add("completed_rounds_total", len(rounds))
    if facts.live is not None and planned is not None:
        totals = [record.seconds.total for record in rounds]
        found.add("remaining_seconds", seconds_left(totals, planned))
    for phase in RoundSeconds.model_fields:
        seconds = [getattr(record.seconds, phase) for record in rounds[-USUAL:]]
        if phase in BESIDE:
            seconds = [value for value in seconds if value]
        if seconds:
            found.add("round_seconds", seconds[-1], phase)
        if len(seconds) >= FEWEST:
            found.add("usual_round_seconds", statistics.median(seconds), phase)


def _add_scores(found: Families, facts: Facts) -> None:
    """Add what is known of the newest models."""
    last = facts.rounds[-1] if facts.rounds else None
    if last is not None:
        found.add("training_loss", last.loss)
    # The newest model is scored beside the next round; until then the one before it counts.
    tested = next((each.test for each in reversed(facts.rounds) if each.test is not None), None)
    if tested is not None:
        found.add("test_auc", tested.auc)
        for finding, auc in tested.auc_by_finding.items():
            found.add("test_finding_auc", auc, finding)
    choice = Choice(facts.config.believes_claims)
    Progress.of(facts.rounds, facts.events, choice)
    if facts.status.validation is not None:
        choice.note(len(facts.rounds), facts.status.validation.auc, facts.status.pooled)
        _add_validation(found, facts.status.validation, facts.status.pooled)
    elif last is not None:
        _add_validation(found, last, last.pooled)
    if choice.best is not None:
        best, number = choice.best
        found.add("best_validation_auc", best, choice.by)
        found.add("best_round", number)


def _add_validation(found: Families, mean: Validation, pooled: Pooled | None) -> None:
    found.add("validation_auc", mean.auc, "mean")
    for finding, auc in mean.auc_by_finding.items():
        found.add("validation_finding_auc", auc, "mean", finding)
    if pooled is not None:
        found.add("validation_auc", pooled.auc, "pooled")
        for finding, of in pooled.by_finding.items():
            found.add("validation_finding_auc", of.auc, "pooled", finding)


def _add_live(found: Families, live: Live) -> None:
    found.add("round", live.round)
    found.add("attempt", live.attempt)
    found.add_one_of("phase", live.phase, get_args(Phase))
    found.add("phase_start_timestamp_seconds", live.since.timestamp())
    found.add("hospitals_needed", live.needed)
    found.add("hospitals_connected", len(_connected(live)))
    for name, hospital in live.hospitals.items():
        found.add_one_of("hospital_state", hospital.doing, get_args(Doing), name)


def _connected(live: Live) -> list[str]:
    return [name for name, hospital in live.hospitals.items() if hospital.doing not in AWAY]


def _add_last_seen(found: Families, live: Live, facts: Facts) -> None:
    """Add now for hospitals that are connected, and the last event of the others."""
    last = {event.site: event.time for event in facts.events if isinstance(event, SEEN)}
    seen = {name: datetime.fromisoformat(time).timestamp() for name, time in last.items()}
    seen |= dict.fromkeys(_connected(live), facts.now)
    for name, timestamp in sorted(seen.items()):
        found.add("hospital_last_seen_timestamp_seconds", timestamp, name)


def _add_hospitals(found: Families, rounds: Sequence[RoundRecord]) -> None:
    """Add the last that each hospital told, and what it has moved and missed in all rounds."""
    parts: dict[str, list[HospitalRecord]] = {}
    missed: Counter[str] = Counter()
    for record in rounds:
        missed.update(record.cohort)
        for name, part in record.hospitals.items():
            parts.setdefault(name, []).append(part)
            missed[name] = 0
    for name, count in sorted(missed.items()):
        found.add("hospital_missed_rounds", count, name)
    for name, told in sorted(parts.items()):
        _add_hospital(found, name, told[-1])
        received, sent = (sum(getattr(p.bytes, way) for p in told) for way in ("received", "sent"))
        found.add("hospital_received_bytes_total", received, name)
        found.add("hospital_sent_bytes_total", sent, name)


def _add_hospital(found: Families, name: str, last: HospitalRecord) -> None:
    found.add("hospital_examples", last.examples, name)
    found.add("hospital_training_loss", last.loss, name)
    found.add("hospital_epsilon", last.privacy.epsilon if last.privacy else None, name)
    found.add("hospital_validation_images", last.validation_images or None, name)
    found.add("hospital_validation_auc", last.auc, name)
    for finding, auc in (last.auc_by_finding or {}).items():
        found.add("hospital_finding_auc", auc, name, finding)
    for part, seconds in last.seconds:
        found.add("hospital_seconds", seconds, name, part)


def _add_counts(found: Families, facts: Facts) -> None:
    """Add how often what went wrong, 0 included: Prometheus sees no step from nothing to 1."""
    rejected: Counter[tuple[str, str]] = Counter()
    lost: Counter[str] = Counter()
    excluded: Counter[str] = Counter()
    names = set(facts.live.hospitals if facts.live is not None else ())
    names.update(*(record.cohort for record in facts.rounds))
    repeated = 0
    for event in facts.events:
        match event:
            case ReplyRejected():
                rejected[event.site, class_of(event.reason)] += 1
                names.add(event.site)
            case Lost():
                lost[event.site] += 1
                names.add(event.site)
            case Excluded():
                excluded[event.site] += 1
            case Repeated():
                repeated += 1
    found.add("repeated_rounds_total", repeated)
    for name in sorted(names):
        for reason in REASONS:
            found.add("rejections_total", rejected[name, reason], name, reason)
        found.add("lost_replies_total", lost[name], name)
        found.add("exclusions_total", excluded[name], name)
