"""The report's tables, in the paper's layout: methods as rows, findings as columns."""

from collections.abc import Callable, Mapping, Sequence

from common.document import Cell, Table
from experiments.paper.cells import FirstModel
from experiments.paper.report_cells import (
    UNDEFINED,
    auc_cell,
    difference_cell,
    header_of,
    p_text,
    size_text,
)
from experiments.paper.report_curves import (
    SHARES,
    by_first_model,
    first_to_reach,
    mean_curve,
    random_end,
)
from experiments.paper.report_input import (
    MEAN,
    TITLES,
    Bound,
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
    header = "Claim|Verdict|Difference|p|Ratio|Seeds|Films|Patients|Read off|Note"
    rows = [
        [
            Cell(verdict.claim),
            Cell(verdict.decision, bold=True, style=TONES[verdict.decision]),
            _difference_of(verdict, digits),
            Cell(UNDEFINED if verdict.p is None else p_text(verdict.p)),
            Cell(UNDEFINED if verdict.ratio is None else f"{verdict.ratio:.3f}"),
            Cell(str(verdict.seeds)),
            Cell(str(verdict.films)),
            Cell(str(verdict.patients)),
            Cell(verdict.table),
            Cell(_note_of(verdict)),
        ]
        for verdict in verdicts
    ]
    return Table(header_of(header), rows, texts=True)


def result_table(table: ResultTable, findings: Sequence[FindingCount]) -> Table:
    """Return table 1 or 2; the best of a column is bold if it leads the next one for sure."""
    header = [
        Cell("First model"),
        *(Cell(finding_title(f), f"{f.positives} positive of {_patients(f)}") for f in findings),
        Cell("Mean", f"of {sum(f.primary for f in findings)} findings"),
        Cell("Mean minus Random"),
        Cell("Rate"),
        Cell("Seeds"),
    ]
    columns: list[tuple[str, Callable[[Row], Number | None]]] = [
        *((f.name, _auc_of(f.name)) for f in findings),
        (MEAN, lambda row: row.mean),
    ]
    best = {
        name: _best({row.first_model: of(row) for row in table.rows}, table.leads.get(name))
        for name, of in columns
    }
    rows = [
        [
            Cell(TITLES[row.first_model]),
            *(auc_cell(of(row), best[name] == row.first_model) for name, of in columns),
            difference_cell(row.over_random),
            Cell(f"{row.lr:g}", ", ".join(f"{rate:g} failed" for rate in row.failed_rates)),
            Cell(str(row.seeds)),
        ]
        for row in table.rows
    ]
    return Table(header, rows + _not_run(table.not_run))


def fraction_tables(table: FractionTable) -> tuple[Table, Table, Table]:
    """Return table 3 as mean AUC, drop against all labels, and rates with seeds."""
    cells = {(row.first_model, cell.fraction): cell for row in table.rows for cell in row.cells}
    fractions = sorted({fraction for _, fraction in cells}, reverse=True)
    header = [Cell("First model"), *(Cell(f"{100 * fraction:g}%") for fraction in fractions)]
    best = {
        fraction: _best(
            {name: cell.mean for (name, of), cell in cells.items() if of == fraction},
            table.leads.get(fraction),
        )
        for fraction in fractions
    }

    def layout(show: Callable[[FirstModel, FractionCell], Cell]) -> Table:
        rows = [
            [
                Cell(TITLES[row.first_model]),
                *(
                    show(row.first_model, cells[row.first_model, fraction])
                    if (row.first_model, fraction) in cells
                    else Cell(UNDEFINED)
                    for fraction in fractions
                ),
            ]
            for row in table.rows
        ]
        return Table(header, rows + _not_run(table.not_run))

    return (
        layout(lambda name, cell: auc_cell(cell.mean, best[cell.fraction] == name)),
        layout(lambda _, cell: difference_cell(cell.drop)),
        layout(lambda _, cell: Cell(f"{cell.lr:g}", _seeds(cell.seeds))),
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
    """Return when each first model reaches a share of random's final AUC; None without random."""
    groups = by_first_model(curves)
    end = random_end(curves)
    if end is None:
        return None
    rows = []
    for share in SHARES:
        chance = "no better than chance" if share * end <= 0.5 else ""
        for name, group in groups.items():
            seeds = [first_to_reach(curve.points, share * end) for curve in group]
            mean = first_to_reach(mean_curve(group), share * end)
            rows.append(
                [
                    Cell(TITLES[name]),
                    Cell(f"{share:.0%}"),
                    Cell(f"{share * end:.3f}", chance),
                    Cell(_round_of(mean)),
                    Cell(", ".join(_round_of(point) for point in seeds)),
                    Cell(UNDEFINED if mean is None else size_text(mean.bytes)),
                ]
            )
    header = "First model|Share|AUC|Rounds, mean curve|Rounds, each seed|Sent and received"
    return Table(header_of(header), rows)


def bounds_table(bounds: Sequence[Bound], federated: ResultTable | None) -> Table:
    """Return mean AUCs: federated, on the union of the films, and of each hospital alone."""
    by_model = {row.first_model: row.mean for row in federated.rows} if federated else {}
    hospitals = sorted(set().union(*(bound.alone for bound in bounds)))
    header = [Cell("Who trains")]
    header += [Cell(TITLES[bound.first_model], _seeds(bound.seeds)) for bound in bounds]
    rows = [
        [Cell("Federation"), *(auc_cell(by_model.get(bound.first_model)) for bound in bounds)],
        [Cell("Union of all films"), *(auc_cell(bound.union) for bound in bounds)],
        *(
            [
                Cell(f"Hospital {number} alone"),
                *(auc_cell(bound.alone.get(number)) for bound in bounds),
            ]
            for number in hospitals
        ),
    ]
    return Table(header, rows)


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


def _patients(finding: FindingCount) -> str:
    return "1 patient" if finding.patients == 1 else f"{finding.patients} patients"


def _auc_of(finding: str) -> Callable[[Row], Number | None]:
    return lambda row: row.auc_by_finding[finding]


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
