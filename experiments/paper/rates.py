"""Which trials a table is read off, and at which learning rate.

A table is read off the trials of one setting, at the learning rate that the hospitals' own
validation chose for each first model, never the test films. All but the strategies' are FedAvg's,
and all but the wires' travel in fp32.
"""

from collections.abc import Collection, Sequence
from statistics import fmean
from typing import Literal

from common.options import Mode
from experiments.paper.cells import Cell, FirstModel, Method, Split, TrialLine
from experiments.paper.scales import Rates, Scale, method_cells

Hospitals = Literal["all", "union"] | int

Reading = Literal["table1", "table2", "table2-last", "table3", "figure6", "bounds"]
"""A table or figure; ``table2-last`` is table 2 in the other reading of the paper's Non-IID."""

SETTINGS: dict[Reading, tuple[Split, Mode]] = {
    "table1": ("iid", "linear"),
    "table2": ("spread", "finetune"),
    "table2-last": ("last", "finetune"),
    "table3": ("spread", "finetune"),
    "figure6": ("spread", "finetune"),
    "bounds": ("spread", "finetune"),
}
"""The trials that each is read off."""


def chosen_rate(
    lines: Sequence[TrialLine],
    first_model: FirstModel,
    table: Reading,
) -> float | None:
    """Return the learning rate of a first model in a table, chosen by validation alone.

    It has the highest validation AUC, averaged over the seeds that all rates have, or over all
    seeds if none is shared; of equal rates the smallest. Rates with an undefined AUC are left out.
    It is chosen for the federation with all labels, and kept with fewer and for those who train
    alone, so that only the labels, or who trains, differ.

    Args:
        lines: Trials of one scale.
        first_model: The first model.
        table: The table.

    Returns:
        None if there is no such trial.
    """
    by_rate: dict[float, dict[int, float | None]] = {}
    for line in lines:
        if is_of(line.cell, first_model, table, 1.0, "all"):
            by_rate.setdefault(line.cell.lr, {})[line.cell.seed] = line.validation_auc
    defined = {
        rate: {seed: auc for seed, auc in aucs.items() if auc is not None}
        for rate, aucs in by_rate.items()
        if None not in aucs.values()
    }
    if not defined:
        return None
    shared = set.intersection(*(set(aucs) for aucs in defined.values()))
    means = {
        rate: fmean(auc for seed, auc in aucs.items() if seed in shared or not shared)
        for rate, aucs in defined.items()
    }
    return max(sorted(means), key=lambda rate: means[rate])


def trials_at_chosen_rate(
    lines: Sequence[TrialLine],
    first_model: FirstModel,
    table: Reading,
    label_fraction: float = 1.0,
    hospitals: Hospitals = "all",
) -> dict[int, TrialLine]:
    """Return the trials of a first model in a table, at its chosen rate, by seed.

    Args:
        lines: Trials of one scale.
        first_model: The first model.
        table: The table.
        label_fraction: Share of the labels.
        hospitals: Who trained.
    """
    # The other reading of the Non-IID split has trials at table 2's rate alone.
    rate = chosen_rate(lines, first_model, table)
    if table == "table2-last":
        rate = chosen_rate(lines, first_model, "table2") or rate
    return {
        line.cell.seed: line
        for line in lines
        if is_of(line.cell, first_model, table, label_fraction, hospitals) and line.cell.lr == rate
    }


def is_of(
    cell: Cell,
    first_model: FirstModel,
    table: Reading,
    label_fraction: float,
    hospitals: Hospitals,
) -> bool:
    """Return whether a table is read off a cell, if its learning rate is chosen."""
    return (
        (cell.split, cell.mode) == SETTINGS[table]
        and cell.first_model == first_model
        and cell.label_fraction == label_fraction
        and cell.hospitals == hospitals
        and (cell.method, cell.wire) == ("fedavg", "fp32")
    )


def chosen_settings(
    scale: Scale, lines: Sequence[TrialLine], chosen: Rates, diverged: Collection[str]
) -> dict[tuple[Method, FirstModel], float | None]:
    """Return the setting of each method for each first model of which all settings were tried.

    It has the highest validation AUC on the first seed of the paper's Non-IID; of equal ones the
    first. Settings with an undefined AUC are left out, and those with which training diverges.

    Args:
        scale: Says which methods and settings there are.
        lines: Trials that are done.
        chosen: Rates by mode and first model.
        diverged: Names of the trials that did.
    """
    done = {line.cell: line.validation_auc for line in lines}
    tries: dict[tuple[Method, FirstModel], list[Cell]] = {}
    for cell in method_cells(scale, chosen, {}):
        tries.setdefault((cell.method, cell.first_model), []).append(cell)
    found = {}
    for key, cells in tries.items():
        aucs = {cell.setting: auc for cell in cells if (auc := done.get(cell)) is not None}
        if aucs and all(cell in done or cell.name in diverged for cell in cells):
            found[key] = max(aucs, key=lambda setting: aucs[setting])
    return found
