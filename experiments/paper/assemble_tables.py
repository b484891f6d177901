"""From the trials to the rows of tables 1 to 3 and of the bounds."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from common.bootstrap import Floats
from common.findings import FINDINGS
from experiments.paper.cells import Cell, FailedLine, FirstModel, TrialLine
from experiments.paper.rates import SETTINGS, Reading, is_of, trials_at_chosen_rate
from experiments.paper.report_input import (
    Bound,
    BoundResult,
    ByFinding,
    FractionCell,
    FractionRow,
    FractionTable,
    Interval,
    Missing,
    Number,
    ResultTable,
    Row,
)
from experiments.paper.results import NOT_RUN, Results, interval, reason_for
from experiments.paper.scales import FRACTIONS


def _why(failed: Sequence[FailedLine], table: Reading, model: FirstModel) -> str:
    """Return why a first model has no row in a table."""
    key = model, *SETTINGS[table], "fedavg", "fp32", "all"
    if model == "imagenet":  # the first trial that lacks the weights speaks for all
        return reason_for(failed, lambda cell: cell.first_model == model)

    def is_of_row(cell: Cell) -> bool:
        how = cell.mode, cell.method, cell.wire, cell.hospitals
        return (cell.first_model, cell.split, *how) == key

    return reason_for(failed, is_of_row)


def _failed_rates(failed: Sequence[FailedLine], table: Reading, model: FirstModel) -> list[float]:
    """Return the learning rates that a first model's first seed failed at."""
    rates = {
        line.cell.lr
        for line in failed
        if line.cell.seed == 0 and is_of(line.cell, model, table, 1.0, "all")
    }
    return sorted(rates)


def result_table(
    found: Results, table: Reading, models: Sequence[FirstModel], failed: Sequence[FailedLine]
) -> ResultTable | Missing:
    """Return table 1, or table 2 in one of its splits.

    Args:
        found: The trials.
        table: Which.
        models: Its rows.
        failed: Trials that failed: the reason for a row that is missing.
    """
    trials = {model: found.trials(table, model) for model in models}
    missing = {model: _why(failed, table, model) for model, done in trials.items() if not done}
    random = trials.get("random", {})
    rows = [
        _row(found, model, done, random, _failed_rates(failed, table, model))
        for model, done in trials.items()
        if done
    ]
    if not rows:
        return Missing(reason="; ".join(dict.fromkeys(missing.values())))
    split, mode = SETTINGS[table]
    return ResultTable(
        split=split,
        mode=mode,
        rows=rows,
        lead=_lead({model: found.means(done) for model, done in trials.items() if done}, found),
        not_run=missing,
    )


def _row(
    found: Results,
    model: FirstModel,
    trials: Mapping[int, TrialLine],
    random: Mapping[int, TrialLine],
    failed_rates: list[float],
) -> Row:
    aucs, others = found.aucs(trials), found.aucs(random) if random else {}
    over: ByFinding = {}
    shared = aucs.keys() & others.keys()
    if model != "random" and shared:
        over = _by_finding(found, {seed: aucs[seed] - others[seed] for seed in shared})
    means, cell = found.means(trials), next(iter(trials.values())).cell
    return Row(
        first_model=model,
        auc_by_finding=_by_finding(found, aucs),
        mean=found.interval(means),
        lr=cell.lr,
        edge=_edge(cell.lr, found.scale.lrs[cell.mode]),
        failed_rates=failed_rates,
        seeds=len(trials),
        over_random=None if model == "random" else found.difference(means, found.means(random)),
        over_random_by_finding=over,
    )


def _edge(lr: float, tried: Sequence[float]) -> Literal["lowest", "highest"] | None:
    if len(tried) == 1:
        return None
    if lr == max(tried):
        return "highest"
    return "lowest" if lr == min(tried) else None


def _by_finding(found: Results, by_seed: Mapping[int, Floats]) -> ByFinding:
    """Return the mean over seeds for each finding.

    Args:
        found: The trials.
        by_seed: For each seed float64, (1 + D) x 14; NaN where undefined in a draw.
    """
    estimates = found.bootstrap.finding_estimates(by_seed)
    undefined = np.isnan(found.bootstrap.over_seeds(by_seed))
    return {
        finding: Number(value=of.value) if of is not None and some.any() else interval(of)
        for finding, of, some in zip(FINDINGS, estimates, undefined.T, strict=True)
    }


def _lead(means: Mapping[FirstModel, Mapping[int, Floats]], found: Results) -> Interval | None:
    """Return the best mean minus the next best, paired."""
    values = {
        model: float(found.bootstrap.over_seeds(by_seed)[0]) for model, by_seed in means.items()
    }
    ranked = sorted(values, key=lambda model: values[model], reverse=True)
    if len(ranked) < 2:
        return None
    return found.difference(means[ranked[0]], means[ranked[1]])


def fraction_table(found: Results, failed: Sequence[FailedLine]) -> FractionTable | Missing:
    """Return table 3."""
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
                    over_random=None
                    if model == "random"
                    else found.difference(
                        means, found.means(found.trials("table3", "random", fraction))
                    ),
                    lr=next(iter(trials.values())).cell.lr,
                    seeds=len(trials),
                )
            )
        if len(cells) > 1:
            rows.append(FractionRow(first_model=model, cells=cells))
        else:
            missing[model] = _why(failed, "table3", model)
    if not rows:
        return Missing(reason=NOT_RUN)
    return FractionTable(rows=rows, not_run=missing)


def bounds(found: Results) -> list[Bound] | Missing:
    """Return training on all films, and of each hospital alone, beside the federation."""
    models: tuple[FirstModel, ...] = ("random", "mocov2")
    rows = [_bound(found, model) for model in models]
    return [row for row in rows if row.union or row.alone] or Missing(reason=NOT_RUN)


def _bound(found: Results, model: FirstModel) -> Bound:
    federation = found.means(found.trials("table2", model))

    def result(hospitals: int | Literal["union"]) -> BoundResult | None:
        trials = trials_at_chosen_rate(found.lines, model, "bounds", 1.0, hospitals)
        means = found.means(trials)
        return _bound_result(found, means, found.difference(means, federation))

    alone = {number: result(number) for number in range(found.scale.hospitals)}
    return Bound(
        first_model=model,
        federation=_bound_result(found, federation, None),
        union=result("union"),
        alone={number: of for number, of in alone.items() if of is not None},
    )


def _bound_result(
    found: Results, means: Mapping[int, Floats], over_federation: Interval | None
) -> BoundResult | None:
    if not means:
        return None
    return BoundResult(
        mean=found.interval(means), over_federation=over_federation, seeds=len(means)
    )
