"""The report's tables, in the paper's layout: methods as rows, findings as columns."""

from collections.abc import Callable, Mapping, Sequence

from common.document import Cell, Table
from experiments.paper.cells import FirstModel
from experiments.paper.claims import FINAL_SHARES
from experiments.paper.report_cells import (
    UNDEFINED,
    auc_cell,
    difference_cell,
    header_of,
    p_text,
    size_text,
)
from experiments.paper.report_curves import (
    by_first_model,
    first_to_reach,
    random_ends,
)
from experiments.paper.report_input import (
    TITLES,
    Bound,
    BoundResult,
    Curve,
    CurvePoint,
    FindingCount,
    FractionCell,
    FractionTable,
    Interval,
    Number,
    Pretraining,
    ResultTable,
    Row,
    SplitCounts,
    Stratum,
)
from experiments.paper.verdict import Decision, Verdict

NOT_PRIMARY = "†"
"""Marks a finding with too few positive test films."""

TONES: dict[Decision, str] = {
    "holds": "background: #d5e8f5",
    "does not hold": "background: #fbe3cd",
    "undecided": "background: #ececec",
    "not run": "",
}

SEEDS_FIXED = "the seeds are kept fixed: the interval is over patients alone"

UNITS = {"table3": "AUC of drops", "figure6": "rounds"}
"""Of a claim's difference, by where it is read off; of all others it is AUC."""


def verdict_table(verdicts: Sequence[Verdict], digits: int = 3) -> Table:
    """Return a row for each claim: what the trials say of it, and how surely.

    Args:
        verdicts: On the claims.
        digits: Of the differences of AUC.
    """
    header = "Claim|Read off|Verdict|Difference|p|Ratio|Seeds|Films|Patients|Note"
    rows = [
        [
            Cell(verdict.claim),
            Cell(verdict.table),
            Cell(verdict.decision, bold=True, style=TONES[verdict.decision]),
            _difference_of(verdict, digits),
            Cell(UNDEFINED if verdict.p is None else p_text(verdict.p)),
            Cell(UNDEFINED if verdict.ratio is None else f"{verdict.ratio:.3f}"),
            Cell(str(verdict.seeds)),
            Cell(str(verdict.films)),
            Cell(str(verdict.patients)),
            Cell(_note_of(verdict)),
        ]
        for verdict in verdicts
    ]
    return Table(header_of(header), rows, texts=True)


def result_table(table: ResultTable, findings: Sequence[FindingCount]) -> Table:
    """Return table 1 or 2; the best mean is bold if it leads the next one for sure."""
    header = [
        Cell("First model"),
        *(Cell(finding_title(f), f"{f.positives} positive of {_patients(f)}") for f in findings),
        Cell("Mean", f"of {sum(f.primary for f in findings)} findings"),
        Cell("Mean minus Random"),
        Cell("Rate"),
        Cell("Seeds"),
    ]
    best = _best({row.first_model: row.mean for row in table.rows}, table.lead)
    rows = [
        [
            Cell(TITLES[row.first_model]),
            *(auc_cell(row.auc_by_finding[f.name]) for f in findings),
            auc_cell(row.mean, best == row.first_model),
            difference_cell(row.over_random),
            Cell(f"{row.lr:g}", _remark_on_rate(row)),
            Cell(str(row.seeds)),
        ]
        for row in table.rows
    ]
    return Table(header, rows + _not_run(table.not_run))


def fraction_tables(table: FractionTable) -> tuple[Table, Table, Table, Table]:
    """Return table 3 as mean AUC, drop against all labels, lead over random, rates with seeds."""
    cells = {(row.first_model, cell.fraction): cell for row in table.rows for cell in row.cells}
    fractions = sorted({fraction for _, fraction in cells}, reverse=True)
    header = [Cell("First model"), *(Cell(f"{100 * fraction:g}%") for fraction in fractions)]

    def layout(show: Callable[[FractionCell], Cell]) -> Table:
        rows = [
            [
                Cell(TITLES[row.first_model]),
                *(
                    show(cells[row.first_model, fraction])
                    if (row.first_model, fraction) in cells
                    else Cell(UNDEFINED)
                    for fraction in fractions
                ),
            ]
            for row in table.rows
        ]
        return Table(header, rows + _not_run(table.not_run))

    return (
        layout(lambda cell: auc_cell(cell.mean)),
        layout(lambda cell: difference_cell(cell.drop)),
        layout(lambda cell: difference_cell(cell.over_random)),
        layout(lambda cell: Cell(f"{cell.lr:g}", _seeds(cell.seeds))),
    )


def forest_table(row: Row, findings: Sequence[FindingCount]) -> Table:
    """Return the numbers of the forest plot."""
    rows = [
        [
            Cell(finding_title(finding)),
            Cell(str(finding.positives)),
            Cell(str(finding.patients)),
            difference_cell(row.over_random_by_finding.get(finding.name)),
        ]
        for finding in findings
    ]
    return Table(
        header_of("Finding|Positive test films|Of patients|MoCo-v2 minus Random"),
        [*rows, [Cell("Mean"), Cell(""), Cell(""), difference_cell(row.over_random)]],
    )


def strata_table(strata: Sequence[Stratum]) -> Table:
    """Return the mean AUC by view position."""
    rows = [
        [
            Cell(TITLES[stratum.first_model]),
            Cell(stratum.view),
            Cell(str(stratum.films)),
            Cell(str(stratum.findings)),
            auc_cell(stratum.mean),
            difference_cell(stratum.over_random),
        ]
        for stratum in strata
    ]
    return Table(header_of("First model|View|Films|Findings|Mean AUC|Mean minus Random"), rows)


def shares_table(curves: Sequence[Curve]) -> Table | None:
    """Return when each first model reaches a share of random's final AUC on the same seed.

    None: random was not measured.
    """
    ends = random_ends(curves)
    if not ends:
        return None
    rows = []
    for share in FINAL_SHARES:
        for name, group in by_first_model(curves).items():
            goals = {curve.seed: share * ends[curve.seed] for curve in group if curve.seed in ends}
            points = [
                first_to_reach(curve.points, goals[curve.seed])
                for curve in group
                if curve.seed in goals
            ]
            reached = [point for point in points if point is not None]
            sizes = [point.bytes for point in reached] if len(reached) == len(points) else []
            rows.append(
                [
                    Cell(TITLES[name]),
                    Cell(f"{share:.0%}"),
                    Cell(", ".join(f"{goal:.3f}" for goal in goals.values()), _chance(goals)),
                    Cell(", ".join(_round_of(point) for point in points)),
                    Cell(size_text(sum(sizes) // len(sizes)) if sizes else UNDEFINED),
                ]
            )
    header = "First model|Share|AUC, each seed|Rounds, each seed|Sent and received, mean"
    return Table(header_of(header), rows)


def _chance(goals: Mapping[int, float]) -> str:
    """Return a mark for AUCs that a model without knowledge reaches."""
    no_better = [goal <= 0.5 for goal in goals.values()]
    if not any(no_better):
        return ""
    return "no better than chance" if all(no_better) else "some no better than chance"


def bounds_table(bounds: Sequence[Bound]) -> Table:
    """Return mean AUCs: federated, on the union of the films, and of each hospital alone."""
    header = [Cell("Who trains")]
    for bound in bounds:
        header += [Cell(TITLES[bound.first_model]), Cell("minus the federation"), Cell("Seeds")]
    trained: dict[str, list[BoundResult | None]] = {
        "Federation": [bound.federation for bound in bounds],
        "Union of all films": [bound.union for bound in bounds],
    }
    for number in sorted(set().union(*(bound.alone for bound in bounds))):
        trained[f"Hospital {number} alone"] = [bound.alone.get(number) for bound in bounds]
    rows = [
        [Cell(name), *(cell for result in results for cell in _bound_cells(result))]
        for name, results in trained.items()
    ]
    return Table(header, rows)


def _bound_cells(result: BoundResult | None) -> list[Cell]:
    if result is None:
        return [Cell("not run"), Cell(UNDEFINED), Cell(UNDEFINED)]
    over = result.over_federation
    return [
        auc_cell(result.mean),
        Cell(UNDEFINED) if over is None else difference_cell(over),
        Cell(str(result.seeds)),
    ]


def split_table(split: SplitCounts, findings: Sequence[FindingCount]) -> Table:
    """Return films with each finding by hospital, shaded by their share of the finding's films."""
    header = [Cell("Hospital"), Cell("Films"), Cell("Patients")]
    header += [Cell(finding.name.replace("_", " ")) for finding in findings]
    header += [Cell("No finding")]
    names = [finding.name for finding in findings]
    counts = [
        [*(hospital.positives.get(name, 0) for name in names), hospital.without]
        for hospital in split.hospitals
    ]
    totals = [sum(column) for column in zip(*counts, strict=True)]
    rows = [
        [
            Cell(hospital.hospital),
            Cell(str(hospital.films)),
            Cell(str(hospital.patients)),
            *(_shaded(count, total) for count, total in zip(row, totals, strict=True)),
        ]
        for hospital, row in zip(split.hospitals, counts, strict=True)
    ]
    return Table(header, rows)


def pretraining_table(runs: Sequence[Pretraining]) -> Table:
    """Return where each pretraining began and ended."""
    rows = [
        [
            Cell(TITLES[run.method]),
            Cell(str(run.epochs[-1].epoch)),
            Cell(f"{run.epochs[0].loss:.3f}"),
            Cell(f"{run.epochs[-1].loss:.3f}"),
            Cell(_number(run.epochs[-1].spread, 3)),
            Cell(_number(run.epochs[-1].rank, 1)),
        ]
        for run in runs
    ]
    return Table(header_of("Method|Epochs|First loss|Last loss|Last spread|Last rank"), rows)


def finding_title(finding: FindingCount) -> str:
    """Return a finding's name, marked if it does not count for the primary mean."""
    name = finding.name.replace("_", " ")
    return name if finding.primary else f"{name} {NOT_PRIMARY}"


def _remark_on_rate(row: Row) -> str:
    edge = [f"{row.edge} tried"] if row.edge else []
    return ", ".join([*edge, *(f"{rate:g} failed" for rate in row.failed_rates)])


def _patients(finding: FindingCount) -> str:
    return "1 patient" if finding.patients == 1 else f"{finding.patients} patients"


def _best(by_model: Mapping[FirstModel, Number | None], lead: Interval | None) -> FirstModel | None:
    """Return the first model with the highest AUC, or None if its lead may be chance."""
    known = {name: auc.value for name, auc in by_model.items() if auc is not None}
    if lead is None or lead.low <= 0 or not known:
        return None
    return max(known, key=lambda name: known[name])


def _not_run(reasons: Mapping[FirstModel, str]) -> list[list[Cell]]:
    return [[Cell(TITLES[name]), Cell(f"not run: {why}")] for name, why in reasons.items()]


def _difference_of(verdict: Verdict, digits: int) -> Cell:
    if verdict.difference is None:
        return Cell(UNDEFINED)
    unit = UNITS.get(verdict.table, "AUC")
    digits = 1 if unit == "rounds" else digits
    ends = (verdict.low, verdict.high)
    detail = " to ".join(UNDEFINED if end is None else f"{end:+.{digits}f}" for end in ends)
    return Cell(f"{verdict.difference:+.{digits}f} {unit}", detail)


def _note_of(verdict: Verdict) -> str:
    return "; ".join(filter(None, [verdict.note, SEEDS_FIXED if verdict.seeds_fixed else ""]))


def _number(value: float | None, digits: int) -> str:
    return UNDEFINED if value is None else f"{value:.{digits}f}"


def _seeds(number: int) -> str:
    return "1 seed" if number == 1 else f"{number} seeds"


def _round_of(point: CurvePoint | None) -> str:
    return "never" if point is None else str(point.round)


def _shaded(count: int, total: int) -> Cell:
    share = count / total if total else 0.0
    return Cell(str(count), style=f"background: rgba(0, 114, 178, {0.8 * share:.2f})")
