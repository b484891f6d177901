"""The report on the federated methods: their AUCs, their rounds, and what was not run."""

from collections.abc import Sequence

from common.document import Block, Cell, Table
from experiments.paper.cells import Split
from experiments.paper.claims import FINAL_SHARES
from experiments.paper.methods import METHODS
from experiments.paper.report_cells import (
    UNDEFINED,
    auc_cell,
    difference_cell,
    header_of,
    p_text,
    size_text,
)
from experiments.paper.report_curves import first_to_reach
from experiments.paper.report_figures import strategies
from experiments.paper.report_input import (
    METHOD_TITLES,
    TITLES,
    Curve,
    MethodRow,
    Missing,
    StrategyTable,
)

SPLIT_NAMES: dict[Split, str] = {
    "spread": "Non-IID",
    "iid": "IID",
    "dirichlet": "Dirichlet 0.1",
}
"""The columns; the first is the main one."""


def strategy_blocks(tables: Sequence[StrategyTable]) -> list[Block]:
    """Return what the report says of the methods."""
    blocks: list[Block] = [
        "Mean AUC on the test films by how the hospitals train together. Each difference is from "
        "FedAvg of the same first model, split and seeds; where FedAvg has more seeds, it is not "
        "the difference of the means that stand there. p is of the Non-IID column, adjusted "
        "after Holm for all its comparisons, from either first model, those not run yet with "
        "p = 1; the other columns have intervals only. The learning rate is the one that was "
        "chosen for FedAvg. Setting: the method's own, chosen by the hospitals' validation on the "
        "first seed of the Non-IID column.",
        strategies(tables),
    ]
    shares = ", ".join(f"{share:.0%}" for share in FINAL_SHARES)
    for table in tables:
        blocks += [f"From {TITLES[table.first_model]}:", auc_table(table)]
    blocks.append(
        f"Non-IID: the first round after which the test AUC is at least {shares} of the AUC that "
        "FedAvg ends at on the same seed, for each seed, the first one first; 0: the first model "
        "is as good before it is trained. And what all hospitals send and receive in a round."
    )
    for table in tables:
        blocks += [f"From {TITLES[table.first_model]}:", rounds_table(table)]
    return blocks


def auc_table(table: StrategyTable) -> Table:
    """Return a row for each method: mean AUC and difference from FedAvg on each split."""
    header = ["Method", "Setting"]
    for split, name in SPLIT_NAMES.items():
        header += [name, "minus FedAvg", *(["p"] if split == "spread" else []), "Seeds"]
    return Table(header_of("|".join(header)), [_aucs(row) for row in table.rows])


def _aucs(row: MethodRow) -> list[Cell]:
    cells = [Cell(METHOD_TITLES[row.method]), _setting(row)]
    for split in SPLIT_NAMES:
        result = row.results[split]
        p = [Cell(UNDEFINED)] if split == "spread" else []
        if isinstance(result, Missing):
            cells += [Cell("not run"), Cell(UNDEFINED), *p, Cell(UNDEFINED)]
            continue
        if p and result.p is not None:
            p = [Cell(p_text(result.p))]
        cells += [auc_cell(result.mean), difference_cell(result.over_fedavg), *p]
        cells.append(Cell(str(result.seeds)))
    return cells


def _setting(row: MethodRow) -> Cell:
    tuned = METHODS[row.method].tuned
    if tuned is None or row.setting is None:
        return Cell(UNDEFINED)
    return Cell(f"{row.setting:g}", tuned.replace("_", "-"))


def rounds_table(table: StrategyTable) -> Table:
    """Return the rounds of each method to shares of FedAvg's final AUC, and its traffic."""
    ends = {
        curve.seed: curve.points[-1].test_auc
        for row in table.rows
        if row.method == "fedavg"
        for curve in row.curves
    }
    header = ["Method", *(f"Rounds to {share:.0%}" for share in FINAL_SHARES), "Sent and received"]
    rows = [
        [
            Cell(METHOD_TITLES[row.method]),
            *(_rounds(row.curves, ends, share) for share in FINAL_SHARES),
            _traffic(row.curves),
        ]
        for row in table.rows
    ]
    return Table(header_of("|".join(header)), rows)


def _rounds(curves: Sequence[Curve], ends: dict[int, float | None], share: float) -> Cell:
    rounds = []
    for curve in curves:
        end = ends.get(curve.seed)
        if end is not None:
            point = first_to_reach(curve.points, share * end)
            rounds.append("never" if point is None else str(point.round))
    return Cell(", ".join(rounds) or ("not run" if not curves else UNDEFINED))


def _traffic(curves: Sequence[Curve]) -> Cell:
    if not curves:
        return Cell(UNDEFINED)
    last = curves[0].points[-1]
    return Cell(size_text(last.bytes // max(1, last.round)))


def missing_strategies(tables: Sequence[StrategyTable]) -> list[str]:
    """Return which results are missing, and why: a line for each first model, split and reason."""
    methods: dict[tuple[str, str, str], list[str]] = {}
    for table in tables:
        for row in table.rows:
            for split, result in row.results.items():
                if isinstance(result, Missing):
                    key = TITLES[table.first_model], SPLIT_NAMES[split], result.reason
                    methods.setdefault(key, []).append(METHOD_TITLES[row.method])
    return [
        f"Strategies, {model}, {split}, {', '.join(names)}: {reason}"
        for (model, split, reason), names in methods.items()
    ]
