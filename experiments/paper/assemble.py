"""From the lines of a grid to what the report shows."""

import csv
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path

import numpy as np

from common.errors import BadInput
from common.findings import FINDINGS
from common.shard import Shard, open_shard
from experiments.paper.cells import FailedLine, FirstModel, TrialLine
from experiments.paper.claims import verdicts
from experiments.paper.grid import read_failed, read_trials
from experiments.paper.rates import SETTINGS, Reading, trials_at_chosen_rate
from experiments.paper.report_input import (
    MEAN,
    Bound,
    Curve,
    CurvePoint,
    Epoch,
    FindingCount,
    FractionCell,
    FractionRow,
    FractionTable,
    HospitalCounts,
    Interval,
    Missing,
    NotRun,
    Pretraining,
    ReportInput,
    ResultTable,
    Row,
    SplitCounts,
    Stratum,
)
from experiments.paper.scales import FRACTIONS, Scale
from experiments.paper.statistics import LEAST_POSITIVES, Bootstrap, Estimate, Films, Floats

LIMITS = [
    "Labels were read from reports by a program: some are wrong.",
    "Test patients have many films, so intervals are over patients; few patients make them wide.",
    "With fewer than three seeds an interval is over patients alone.",
]


class Results:
    """The trials of one scale, with the test films' bootstrap.

    Args:
        scale: Of the trials.
        results: Folder of the lines.
        data: The shards.

    Raises:
        BadInput: There is no trial, or a line is damaged.
    """

    def __init__(self, scale: Scale, results: Path, data: Path) -> None:
        self.scale = scale
        self.lines = [line for line in read_trials(results) if line.cell.scale == scale.name]
        if not self.lines:
            raise BadInput(f"{results}: no trial of scale {scale.name} is done; run some first")
        self.test = open_shard(data / "test")
        patients = [entry.patient for entry in self.test.entries]
        self.films = Films(self.test.labelled(), patients)
        self._scores = results / "scores"
        self.bootstrap = Bootstrap(self.films, seed=0)
        self.mean = cache(lambda name: self.bootstrap.mean_auc(self.scores_of(name)))
        self.by_finding = cache(lambda name: self.bootstrap.auc_by_finding(self.scores_of(name)))

    def scores_of(self, name: str) -> Floats:
        """Return a cell's scores of the test films: float64, N x 14.

        Raises:
            BadInput: The file is missing or damaged.
        """
        file = self._scores / f"{name}.npy"
        try:
            return np.asarray(np.load(file, allow_pickle=False), np.float64)
        except (OSError, ValueError) as error:
            raise BadInput(f"{file}: {type(error).__name__}; restore it from a copy") from None

    def trials(
        self, table: Reading, model: FirstModel, fraction: float = 1.0
    ) -> dict[int, TrialLine]:
        """Return the trials of a first model in a table, at its rate, by seed."""
        return trials_at_chosen_rate(self.lines, model, table, fraction)

    def means(self, trials: Mapping[int, TrialLine]) -> dict[int, Floats]:
        """Return the bootstrapped primary mean of each seed."""
        return {seed: self.mean(line.cell.name) for seed, line in trials.items()}

    def aucs(self, trials: Mapping[int, TrialLine]) -> dict[int, Floats]:
        """Return the bootstrapped AUC of each finding, of each seed."""
        return {seed: self.by_finding(line.cell.name) for seed, line in trials.items()}

    def interval(self, by_seed: Mapping[int, Floats]) -> Interval | None:
        """Return the mean over seeds with its interval."""
        return interval(Estimate.of(self.bootstrap.over_seeds(by_seed), len(by_seed)))

    def difference(self, a: Mapping[int, Floats], b: Mapping[int, Floats]) -> Interval | None:
        """Return the paired difference over the seeds of both."""
        return interval(self.bootstrap.difference(a, b))


def interval(estimate: Estimate | None) -> Interval | None:
    """Return an estimate as the report has it."""
    if estimate is None:
        return None
    return Interval(value=estimate.value, low=estimate.low, high=estimate.high)


def report_input(scale: Scale, results: Path, root: Path, metadata: Path | None) -> ReportInput:
    """Return what the report on a scale shows.

    Args:
        scale: The scale.
        results: Folder of the lines.
        root: Has ``data`` and ``models``; see :mod:`experiments.paper.grid`.
        metadata: ``Data_Entry_2017*.csv``, for the view positions; None: no strata.

    Raises:
        BadInput: A file is missing or damaged.
    """
    found = Results(scale, results, root / "data")
    failed = [line for line in read_failed(results) if line.cell.scale == scale.name]
    positives = found.films.labels.sum(axis=0, dtype=int)
    environments = sorted({line.environment.model_dump_json() for line in found.lines})
    return ReportInput(
        scale=scale.name,
        reasons=[scale.reasons],
        data=f"{len(found.test)} test films of {len(set(found.films.patients))} patients, "
        f"{scale.image_size} pixels wide; source: {found.test.manifest.source}.",
        limits=LIMITS,
        endpoint=scale.endpoint,
        commits=sorted({line.environment.commit for line in found.lines}),
        films=len(found.test),
        patients=len(set(found.films.patients)),
        least_positives=LEAST_POSITIVES,
        findings=[
            FindingCount(name=name, positives=count, primary=count >= LEAST_POSITIVES)
            for name, count in zip(FINDINGS, positives.tolist(), strict=True)
        ],
        verdicts=verdicts(found.lines, found.scores_of, found.films),
        table1=_table(found, "table1", scale.table1, failed),
        table2_spread=_table(found, "table2", scale.table2, failed),
        table2_last=_table(found, "table2-last", ("random", "mocov2"), failed),
        table3=_fractions(found, failed),
        curves=_curves(found),
        bounds=_bounds(found),
        strata=_strata(found, metadata),
        splits=_splits(root / "data"),
        pretraining=_pretraining(root / "models"),
        not_run=[NotRun(what=line.cell.name, reason=line.reason) for line in failed],
        environment=environments,
    )


def _why(failed: Sequence[FailedLine], table: Reading, model: FirstModel) -> str:
    """Return why a first model has no row in a table."""
    setting = SETTINGS[table]
    for line in failed:
        if line.cell.first_model == model and (line.cell.split, line.cell.mode) == setting:
            return line.reason
    return "not run yet"


def _table(
    found: Results, table: Reading, models: Sequence[FirstModel], failed: Sequence[FailedLine]
) -> ResultTable | Missing:
    trials = {model: found.trials(table, model) for model in models}
    missing = {model: _why(failed, table, model) for model, done in trials.items() if not done}
    random = trials.get("random", {})
    rows = [_row(found, model, done, random) for model, done in trials.items() if done]
    if not rows:
        return Missing(reason="; ".join(dict.fromkeys(missing.values())))
    split, mode = SETTINGS[table]
    leads = _leads({model: found.means(done) for model, done in trials.items() if done}, found)
    return ResultTable(
        split=split,
        mode=mode,
        rows=rows,
        leads={} if leads is None else {MEAN: leads},
        not_run=missing,
    )


def _row(
    found: Results,
    model: FirstModel,
    trials: Mapping[int, TrialLine],
    random: Mapping[int, TrialLine],
) -> Row:
    aucs, others = found.aucs(trials), found.aucs(random) if random else {}
    estimates = found.bootstrap.finding_estimates(aucs)
    over: dict[str, Interval | None] = {}
    shared = aucs.keys() & others.keys()
    if model != "random" and shared:
        differences = {seed: aucs[seed] - others[seed] for seed in shared}
        by_finding = found.bootstrap.finding_estimates(differences)
        over = dict(zip(FINDINGS, map(interval, by_finding), strict=True))
    means = found.means(trials)
    return Row(
        first_model=model,
        auc_by_finding=dict(zip(FINDINGS, map(interval, estimates), strict=True)),
        mean=found.interval(means),
        lr=next(iter(trials.values())).cell.lr,
        seeds=len(trials),
        over_random=None if model == "random" else found.difference(means, found.means(random)),
        over_random_by_finding=over,
    )


def _leads(means: Mapping[FirstModel, Mapping[int, Floats]], found: Results) -> Interval | None:
    """Return the best mean minus the next best, paired."""
    values = {
        model: float(found.bootstrap.over_seeds(by_seed)[0]) for model, by_seed in means.items()
    }
    ranked = sorted(values, key=lambda model: values[model], reverse=True)
    if len(ranked) < 2:
        return None
    return found.difference(means[ranked[0]], means[ranked[1]])


def _fractions(found: Results, failed: Sequence[FailedLine]) -> FractionTable | Missing:
    rows, missing = [], {}
    for model in found.scale.table3:
        full = found.trials("table3", model)
        cells = []
        for fraction in (1.0, *FRACTIONS):
            trials = found.trials("table3", model, fraction)
            if not trials or (fraction == 1.0 and not full):
                continue
            means = found.means(trials)
            cells.append(
                FractionCell(
                    fraction=fraction,
                    mean=found.interval(means),
                    drop=None if fraction == 1 else found.difference(found.means(full), means),
                    lr=next(iter(trials.values())).cell.lr,
                    seeds=len(trials),
                )
            )
        if len(cells) > 1:
            rows.append(FractionRow(first_model=model, cells=cells))
        else:
            missing[model] = _why(failed, "table3", model)
    if not rows:
        return Missing(reason="not run yet")
    return FractionTable(rows=rows, not_run=missing)


def _curves(found: Results) -> list[Curve] | Missing:
    curves = [
        Curve(first_model=model, seed=seed, points=_points(line))
        for model in ("random", "mocov2")
        for seed, line in sorted(found.trials("figure6", model).items())
    ]
    return curves or Missing(reason="not run yet")


def _points(line: TrialLine) -> list[CurvePoint]:
    sums = accumulate(at.bytes for at in line.rounds)
    # A round's validation AUC is that of the model before it.
    later = [at.validation_auc for at in line.rounds[1:]] + [line.validation_auc]
    return [
        CurvePoint(round=at.round, validation_auc=validation, test_auc=at.test_auc, bytes=total)
        for at, validation, total in zip(line.rounds, later, sums, strict=True)
    ]


def _bounds(found: Results) -> list[Bound] | Missing:
    bounds = []
    models: tuple[FirstModel, ...] = ("random", "mocov2")
    for model in models:
        union = trials_at_chosen_rate(found.lines, model, "bounds", 1.0, "union")
        alone = {
            number: trials_at_chosen_rate(found.lines, model, "bounds", 1.0, number)
            for number in range(found.scale.hospitals)
        }
        if union:
            bounds.append(
                Bound(
                    first_model=model,
                    union=found.interval(found.means(union)),
                    alone={
                        number: found.interval(found.means(trials))
                        for number, trials in alone.items()
                        if trials
                    },
                    seeds=len(union),
                )
            )
    return bounds or Missing(reason="not run yet")


def _strata(found: Results, metadata: Path | None) -> list[Stratum] | Missing:
    if metadata is None:
        return Missing(reason="the metadata with the view positions was not given")
    views = views_of(metadata, found.test)
    strata = []
    for view in ("PA", "AP"):
        chosen = np.flatnonzero(np.array(views) == view)
        patients = [found.films.patients[i] for i in chosen.tolist()]
        films = Films(found.films.labels[chosen], patients)
        if not films.counted.any():
            continue
        bootstrap = Bootstrap(films, seed=0)
        means = {
            model: {
                seed: bootstrap.mean_auc(found.scores_of(line.cell.name)[chosen])
                for seed, line in found.trials("table2", model).items()
            }
            for model in found.scale.table2
        }
        for model, by_seed in means.items():
            if by_seed:
                over = None
                if model != "random":
                    over = interval(bootstrap.difference(by_seed, means["random"]))
                mean = interval(Estimate.of(bootstrap.over_seeds(by_seed), len(by_seed)))
                strata.append(
                    Stratum(
                        first_model=model,
                        view=view,
                        films=len(chosen),
                        findings=int(films.counted.sum()),
                        mean=mean,
                        over_random=over,
                    )
                )
    return strata or Missing(reason="no view position has enough positive films")


def views_of(metadata: Path, shard: Shard) -> list[str]:
    """Return the view position of each film of a shard, empty where it is unknown.

    Raises:
        BadInput: The file cannot be read.
    """
    opener = gzip.open if metadata.suffix == ".gz" else open
    try:
        with opener(metadata, "rt", encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            views = {row.get("Image Index"): row.get("View Position") or "" for row in rows}
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{metadata}: {type(error).__name__}; give the metadata's file") from None
    return [views.get(entry.image, "") for entry in shard.entries]


def _splits(data: Path) -> list[SplitCounts] | Missing:
    splits = []
    for split in ("iid", "spread", "last"):
        counts = [_counts(open_shard(path)) for path in sorted((data / split).glob("hospital-*"))]
        if counts:
            splits.append(SplitCounts(split=split, hospitals=counts))
    return splits or Missing(reason="the shards are not there")


def _counts(shard: Shard) -> HospitalCounts:
    labels = shard.labelled()
    positives = labels.sum(axis=0, dtype=int).tolist()
    return HospitalCounts(
        hospital=shard.path.name,
        films=len(shard),
        patients=len({entry.patient for entry in shard.entries}),
        positives=dict(zip(FINDINGS, positives, strict=True)),
        without=int((labels.sum(axis=1) == 0).sum()),
    )


def _pretraining(models: Path) -> list[Pretraining] | Missing:
    found = []
    for method in ("rotation", "simclr", "byol", "mocov2", "scrambled"):
        file = models / f"{method}.run" / "metrics.jsonl"
        if not file.exists():
            continue
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        epochs: dict[int, list[float]] = {}
        last = {}
        for line in lines:
            epoch = math.ceil(line["epoch"])  # a line within an epoch has a fraction of it
            epochs.setdefault(epoch, []).append(line["loss"])
            last[epoch] = line
        found.append(
            Pretraining(
                method=method,
                epochs=[
                    Epoch(
                        epoch=epoch,
                        loss=sum(losses) / len(losses),
                        spread=last[epoch].get("embedding_std"),
                        rank=last[epoch].get("rankme"),
                    )
                    for epoch, losses in epochs.items()
                ],
            )
        )
    return found or Missing(reason="no method has been pretrained here")
