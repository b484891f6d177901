"""From the trials to the strategies' table."""

from collections.abc import Mapping, Sequence

from common.bootstrap import Estimate
from experiments.paper.cells import Cell, FailedLine, FirstModel, Method, Split
from experiments.paper.holm import holm
from experiments.paper.rates import chosen_settings
from experiments.paper.report_input import (
    MethodResult,
    MethodRow,
    Missing,
    StrategyTable,
)
from experiments.paper.results import NOT_RUN, Results, curve_of, interval, reason_for, trials_by
from experiments.paper.scales import OTHER_SPLITS, method_cells

MAIN: Split = "spread"

NOT_TUNED = "not all of its settings are tried yet"

By = tuple[FirstModel, Method, Split]


def strategy_tables(found: Results, failed: Sequence[FailedLine]) -> list[StrategyTable] | Missing:
    """Return a table of methods for each first model.

    Differences are from FedAvg of the same first model and split. p is of those of the main split,
    corrected over all methods and first models: those that are not run yet count as p = 1.

    Args:
        found: The trials.
        failed: Trials that failed: the reason for a result that is missing.
    """
    scale = found.scale
    if all(line.cell.method == "fedavg" for line in found.lines):
        return Missing(reason=NOT_RUN)
    tuned = chosen_settings(scale, found.lines, found.rates, found.diverged)
    trials = trials_by(
        found.lines,
        _chosen(method_cells(scale, found.rates, tuned), tuned),
        lambda cell: (cell.first_model, cell.method, cell.split),
    )
    differences = {
        key: found.bootstrap.difference(found.means(done), found.means(fedavg))
        for key, done in trials.items()
        if key[1] != "fedavg" and (fedavg := trials.get((key[0], "fedavg", key[2])))
    }
    ps = _corrected(
        {
            (model, method, MAIN): differences.get((model, method, MAIN))
            for model in scale.strategies
            for method in scale.methods
            if method != "fedavg"
        }
    )

    def result(key: By) -> MethodResult | Missing:
        if key not in trials:
            return Missing(reason=_why(failed, key, tuned))
        return MethodResult(
            mean=found.interval(found.means(trials[key])),
            over_fedavg=interval(differences.get(key)),
            p=ps.get(key),
            seeds=len(trials[key]),
        )

    return [
        StrategyTable(
            first_model=model,
            rows=[
                MethodRow(
                    method=method,
                    setting=tuned.get((method, model)),
                    results={
                        split: result((model, method, split)) for split in (MAIN, *OTHER_SPLITS)
                    },
                    curves=[
                        curve_of(line)
                        for _, line in sorted(trials.get((model, method, MAIN), {}).items())
                    ],
                )
                for method in scale.methods
            ],
        )
        for model in scale.strategies
    ]


def _chosen(
    cells: Sequence[Cell], tuned: Mapping[tuple[Method, FirstModel], float | None]
) -> list[Cell]:
    """Return the cells of each method at its chosen setting."""
    return [
        cell
        for cell in cells
        if (key := (cell.method, cell.first_model)) in tuned and cell.setting == tuned[key]
    ]


def _corrected(planned: Mapping[By, Estimate | None]) -> dict[By, float]:
    """Return the p-values after Holm's correction, of what was run."""
    ps = holm([1.0 if of is None else of.p for of in planned.values()])
    return {key: p for (key, of), p in zip(planned.items(), ps, strict=True) if of is not None}


def _why(
    failed: Sequence[FailedLine],
    key: By,
    tuned: Mapping[tuple[Method, FirstModel], float | None],
) -> str:
    """Return why there is no trial of a method from a first model on a split."""
    model, method, split = key
    place, otherwise = (split, NOT_RUN) if (method, model) in tuned else (MAIN, NOT_TUNED)
    wanted = model, method, place, "finetune"

    def is_of(cell: Cell) -> bool:
        return (cell.first_model, cell.method, cell.split, cell.mode) == wanted

    return reason_for(failed, is_of, otherwise)
