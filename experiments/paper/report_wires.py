"""The report on the wires: the bytes that travel, the AUC, and what was not run."""

from collections.abc import Sequence

from common.document import Block, Cell, Table
from common.options import Wire
from experiments.paper.report_cells import (
    UNDEFINED,
    auc_cell,
    difference_cell,
    header_of,
    size_text,
)
from experiments.paper.report_input import (
    TITLES,
    Missing,
    Traffic,
    WireReport,
    WireResult,
    WireTable,
)
from experiments.paper.report_tables import verdict_table

DIGITS = 4
"""Of differences: margins are of two thousandths."""


def wire_blocks(report: WireReport) -> list[Block]:
    """Return what the report says of the wires."""
    blocks: list[Block] = [
        "How the model travels, under table 2 and at the rates that were chosen for it. Each "
        "difference is from fp32 of the same first model and seeds. The first model goes to all in "
        "fp32: a round after the first has the bytes that a claim is about, those of the median of "
        "a trial's rounds, since one more travels whole where a trial was stopped and went on. The "
        "bytes of all rounds have that too.",
        "A claim of less than a margin holds if the interval of the difference lies above minus "
        "the margin. No measurable loss: the interval is not below 0, and the difference is above "
        "-0.002; the wider the interval, the less this says. There is no p.",
        verdict_table(report.verdicts, DIGITS),
    ]
    for table in report.tables:
        blocks += [f"From {TITLES[table.first_model]}:", wire_table(table)]
    return blocks


def wire_table(table: WireTable) -> Table:
    """Return a row for each wire: bytes with their shares of fp32's, mean AUC and difference."""
    header = "Wire|A round after the first|All rounds|Mean AUC|minus fp32|Seeds"
    return Table(header_of(header), [_row(*item) for item in table.results.items()])


def _row(wire: Wire, result: WireResult | Missing) -> list[Cell]:
    if isinstance(result, Missing):
        return [Cell(wire), Cell("not run")]
    return [
        Cell(wire),
        _traffic(result.later),
        _traffic(result.total),
        auc_cell(result.mean),
        difference_cell(result.over_fp32, DIGITS),
        Cell(str(result.seeds)),
    ]


def _traffic(traffic: Traffic) -> Cell:
    share = UNDEFINED if traffic.share is None else f"{traffic.share:.1%}"
    return Cell(size_text(traffic.bytes), share)


def missing_wires(tables: Sequence[WireTable]) -> list[str]:
    """Return which results are missing, and why."""
    return [
        f"Wires, {TITLES[table.first_model]}, {wire}: {result.reason}"
        for table in tables
        for wire, result in table.results.items()
        if isinstance(result, Missing)
    ]
