"""From the lines of a grid to what the report shows."""

import csv
import gzip
import json
import math
from itertools import compress
from pathlib import Path

import numpy as np

from common.bootstrap import LEAST_POSITIVES, Bootstrap, Estimate, Films
from common.errors import BadInput
from common.findings import count_by_finding
from common.shard import Shard, open_shard
from experiments.paper.assemble_strategies import strategy_tables
from experiments.paper.assemble_tables import bounds, fraction_table, result_table
from experiments.paper.assemble_wires import wire_report
from experiments.paper.claims import verdicts
from experiments.paper.report_input import (
    Curve,
    Epoch,
    FindingCount,
    HospitalCounts,
    Missing,
    NotRun,
    Pretraining,
    ReportInput,
    SplitCounts,
    Stratum,
)
from experiments.paper.results import NOT_RUN, Results, curve_of, interval
from experiments.paper.scales import Scale

LIMITS = [
    "Labels were read from reports by a program: some are wrong.",
    "Test patients have many films, so intervals are over patients; few patients make them wide.",
    "With fewer than three seeds an interval is over patients alone.",
    "A seed decides the head, which is the same for all first models, the order of films, which "
    "patients validate, and random weights. Each method was pretrained once, and the films were "
    "shared out once for each split: no interval covers another pretraining or another partition.",
]

NOT_CHOSEN = "it was run, but not all learning rates of its first model are tried yet"


def report_input(scale: Scale, results: Path, root: Path, metadata: Path | None) -> ReportInput:
    """Return what the report on a scale shows.

    Args:
        scale: The scale.
        results: Folder of the lines.
        root: Has ``data``; see :mod:`experiments.paper.grid`.
        metadata: ``Data_Entry_2017*.csv``, for the view positions; None: no strata.

    Raises:
        BadInput: A file is missing or damaged.
    """
    found = Results(scale, results, root / "data")
    failed = found.failed
    positives = count_by_finding(found.films.labels == 1)
    environments = [each for line in found.lines for each in line.environments]
    return ReportInput(
        scale=scale.name,
        reasons=[scale.reasons],
        data=f"{len(found.test)} test films of {len(set(found.films.patients))} patients, "
        f"{scale.image_size} pixels wide; source: {found.test.manifest.source}.",
        limits=LIMITS,
        endpoint=scale.endpoint,
        commits=sorted({each.commit for each in environments}),
        least_positives=LEAST_POSITIVES,
        findings=[
            FindingCount(
                name=name,
                positives=count,
                patients=len(set(compress(found.films.patients, column == 1))),
                primary=count >= LEAST_POSITIVES,
            )
            for (name, count), column in zip(positives.items(), found.films.labels.T, strict=True)
        ],
        verdicts=verdicts(found.lines, found.scores_of, found.films),
        table1=result_table(found, "table1", scale.table1, failed),
        table2_spread=result_table(found, "table2", scale.table2, failed),
        table2_last=result_table(found, "table2-last", ("random", "mocov2"), failed),
        table3=fraction_table(found, failed),
        curves=_curves(found),
        strategies=strategy_tables(found, failed),
        wires=wire_report(found, failed),
        bounds=bounds(found),
        strata=_strata(found, metadata),
        splits=_splits(root / "data"),
        pretraining=_pretraining(results / "pretraining"),
        not_run=[
            *(NotRun(what=line.cell.name, reason=line.reason) for line in failed),
            *(NotRun(what=line.cell.name, reason=NOT_CHOSEN) for line in found.undecided),
        ],
        left_out=[
            NotRun(what=line.cell.name, reason=", ".join(line.hospitals_lost))
            for line in found.lines
            if line.hospitals_lost
        ],
        environment=sorted({each.model_dump_json() for each in environments}),
    )


def _curves(found: Results) -> list[Curve] | Missing:
    curves = [
        curve_of(line)
        for model in ("random", "mocov2")
        for _, line in sorted(found.trials("figure6", model).items())
    ]
    return curves or Missing(reason=NOT_RUN)


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
    for split in ("iid", "spread", "last", "dirichlet"):
        counts = [_counts(open_shard(path)) for path in sorted((data / split).glob("hospital-*"))]
        if counts:
            splits.append(SplitCounts(split=split, hospitals=counts))
    return splits or Missing(reason="the shards are not there")


def _counts(shard: Shard) -> HospitalCounts:
    labels = shard.labelled()
    return HospitalCounts(
        hospital=shard.path.name,
        films=len(shard),
        patients=len({entry.patient for entry in shard.entries}),
        positives=count_by_finding(labels == 1),
        without=int((labels == 0).all(axis=1).sum()),
    )


def _pretraining(curves: Path) -> list[Pretraining] | Missing:
    found = []
    for method in ("rotation", "simclr", "byol", "mocov2", "scrambled"):
        file = curves / f"{method}.jsonl"
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
