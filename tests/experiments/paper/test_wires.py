"""The wires' table: which trials it has, what travels, and what is decided of each claim."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from common.bootstrap import Floats
from common.options import Wire
from experiments.paper.assemble_wires import CLAIMS, wire_report
from experiments.paper.cells import Cell, FailedLine, FirstModel, RoundLine, TrialLine
from experiments.paper.grid import Grid, chosen_rates, read_trials
from experiments.paper.rates import trials_at_chosen_rate
from experiments.paper.report_input import Interval, Missing, Traffic, WireReport, WireResult
from experiments.paper.scales import SCALES, Rates, cells_of, wire_cells
from experiments.paper.verdict import Verdict
from tests.support.trials import Instant, MadeUpResults, line

SMALL = SCALES["small"]
RATES: Rates = {("finetune", "random"): 0.05, ("finetune", "mocov2"): 0.1}
BYTES: dict[Wire, tuple[int, int, int]] = {
    "fp32": (100, 100, 100), "bf16": (70, 40, 40), "int8": (62, 24, 26), "topk": (51, 2, 2)
}  # fmt: skip
Lost = dict[Wire, tuple[float, float]]


def test_seeds_of_random_weights_come_first_and_fp32_is_table_2s() -> None:
    cells = wire_cells(SMALL, RATES)
    assert [(cell.first_model, cell.seed, cell.wire) for cell in cells] == [
        (model, seed, wire)
        for model in ("random", "mocov2")
        for seed in (0, 1, 2)
        for wire in ("fp32", "bf16", "int8", "topk")
    ]
    exact = {cell for cell in cells_of(SMALL, "wires", RATES) if cell.wire == "fp32"}
    assert exact <= set(cells_of(SMALL, "table2", RATES))
    assert {cell.wire for cell in cells_of(SMALL, "wires", {})} == {"fp32"}, "the rates' tries"
    assert [cell.name.rsplit("-", 1)[0] for cell in cells[:2]] == [
        "spread-finetune-random-f1-lr0.05-s0",
        "spread-finetune-random-f1-lr0.05-s0-bf16",
    ]
    assert len({cell.name for cell in cells}) == len(cells)


def test_a_cell_of_an_earlier_version_is_one_in_fp32() -> None:
    cell = wire_cells(SMALL, RATES)[0]
    old = json.loads(cell.model_dump_json(exclude={"method", "setting", "wire"}))
    assert Cell.model_validate(old) == cell
    assert cell.name.endswith("-52faf9feccad"), "as it was named when there was no other wire"


def test_a_grid_runs_no_trial_of_table_2_twice(tmp_path: Path) -> None:
    smoke, results = SCALES["smoke"], tmp_path / "results"
    instant = Instant(lambda cell: 0.7 if cell.lr == 0.1 else 0.6)
    for table in ("table2", "wires"):
        Grid(smoke, [table], tmp_path / "root", results, instant, ["random"]).run()
    cells = [line.cell for line in read_trials(results)]
    assert len(set(cells)) == len(cells)
    later = [cell for cell in cells if cell.wire != "fp32"]
    assert later == [
        cell for cell in wire_cells(smoke, {("finetune", "random"): 0.1}) if cell.wire != "fp32"
    ]


def test_other_wires_do_not_stand_in_the_papers_tables() -> None:
    exact, encoded = wire_cells(SMALL, RATES)[:2]
    lines = [line(exact, 0.6, test=0.6), line(encoded, 0.9, test=0.9)]
    assert trials_at_chosen_rate(lines, "random", "table2") == {0: lines[0]}
    assert chosen_rates(SMALL, lines[1:]) == {}


def trial(cell: Cell, sizes: tuple[int, ...], validation: float = 0.6) -> TrialLine:
    rounds = [
        RoundLine(
            round=i, validation_auc=None, test_auc=0.5, loss=None, bytes=size * 10**6, seconds=1
        )
        for i, size in enumerate((0, *sizes))
    ]
    return line(cell, validation, test=0.5).model_copy(update={"rounds": rounds})


def grid(sizes: dict[Wire, tuple[int, int, int]] = BYTES) -> list[TrialLine]:
    best = {("random", 0.05), ("mocov2", 0.1)}
    return [
        trial(cell, sizes[cell.wire], 0.7 if (cell.first_model, cell.lr) in best else 0.6)
        for cell in cells_of(SMALL, "wires", RATES)
    ]


class Found(MadeUpResults):
    """Trials of made-up AUCs.

    Args:
        lines: The trials.
        lost: AUC by wire, and half the width of the interval around it.
    """

    def __init__(self, lines: list[TrialLine], lost: Lost) -> None:
        super().__init__(SMALL, lines, lambda _: 0.0)
        cells = {line.cell.name: line.cell for line in lines}

        def mean(name: str) -> Floats:
            value, half = lost.get(cells[name].wire, (0.0, 0.0))
            # From 2.5 to 97.5 % of the draws it is this wide.
            return 0.6 - value + np.concatenate([[0.0], np.linspace(-half, half, 500) / 0.95])

        self.mean = cache(mean)


def report_on(
    lines: list[TrialLine], lost: Lost | None = None, failed: tuple[FailedLine, ...] = ()
) -> WireReport:
    found = wire_report(Found(lines, lost or {}), failed)
    assert isinstance(found, WireReport)
    return found


def results(report: WireReport, model: FirstModel) -> dict[Wire, WireResult | Missing]:
    return next(table.results for table in report.tables if table.first_model == model)


def decided(report: WireReport) -> dict[str, Verdict]:
    """The verdicts, by the wire and whatever stands after the claim's words."""
    names = {claim.words: claim.wire for claim in CLAIMS}
    return {
        verdict.claim.replace(words, wire): verdict
        for verdict in report.verdicts
        for words, wire in names.items()
        if verdict.claim.startswith(words)
    }


def test_bytes_are_those_of_the_records_and_auc_is_compared_with_fp32() -> None:
    report = report_on(grid(), {"int8": (0.0012, 0.0006)})
    for model in ("random", "mocov2"):
        assert results(report, model)["fp32"] == WireResult(
            mean=Interval(value=0.6, low=0.6, high=0.6),
            over_fp32=None,
            seeds=3,
            later=Traffic(bytes=100_000_000, share=1),
            total=Traffic(bytes=300_000_000, share=1),
        )
        int8 = results(report, model)["int8"]
        assert isinstance(int8, WireResult)
        assert int8.later == Traffic(bytes=25_000_000, share=0.25)
        assert int8.total == Traffic(bytes=112_000_000, share=112 / 300)
        assert int8.over_fp32 is not None
        over = int8.over_fp32
        assert [over.low, over.value, over.high] == pytest.approx([-0.0018, -0.0012, -0.0006])


def test_a_claim_holds_if_it_holds_from_each_first_model() -> None:
    found = decided(report_on(grid()))
    assert {name: verdict.decision for name, verdict in found.items()} == {
        f"{wire}{model}": "holds"
        for wire in ("bf16", "int8", "topk")
        for model in ("", ": from Random", ": from MoCo-v2")
    }
    topk = found["topk: from Random"]
    assert (topk.p, topk.seeds, topk.patients, topk.table) == (None, 3, 60, "wires")
    assert topk.note == "2.0% of the bytes in a round after the first, 18.3% in all"
    assert found["topk"].note == "holds: from Random, from MoCo-v2"
    assert not any(verdict.seeds_fixed for verdict in found.values())
    two = decided(report_on([line for line in grid() if line.cell.seed < 2]))
    assert all(verdict.seeds_fixed for verdict in two.values())


@pytest.mark.parametrize(
    ("wire", "lost", "half", "decision"),
    [
        ("bf16", 0.0019, 0.0021, "holds"),
        ("bf16", -0.01, 0.001, "holds"),
        ("bf16", 0.0021, 0.0023, "undecided"),
        ("bf16", 0.0003, 0.0002, "does not hold"),  # little is lost, but that is measured
        ("int8", 0.0003, 0.0002, "holds"),
        ("int8", 0.0, 0.0021, "undecided"),
        ("int8", 0.0021, 0.0002, "undecided"),
        ("int8", 0.0024, 0.0003, "does not hold"),
        ("topk", 0.008, 0.0019, "holds"),
        ("topk", 0.008, 0.0021, "undecided"),
        ("topk", 0.0121, 0.002, "does not hold"),
    ],
)
def test_verdicts_flip_with_the_auc(wire: Wire, lost: float, half: float, decision: str) -> None:
    found = decided(report_on(grid(), {wire: (lost, half)}))
    assert found[f"{wire}: from Random"].decision == found[wire].decision == decision


def test_a_round_that_travelled_whole_after_a_stop_is_no_round_of_the_wire() -> None:
    lines = [
        trial(each.cell, (62, 24, 100, 24, 24)) if each.cell.wire == "int8" else each
        for each in grid({**BYTES, "int8": (62, 24, 24)})
    ]
    int8 = results(report_on(lines), "random")["int8"]
    assert isinstance(int8, WireResult)
    assert int8.later == Traffic(bytes=24_000_000, share=0.24)


@pytest.mark.parametrize(("later", "decision"), [(25, "holds"), (26, "does not hold")])
def test_verdicts_flip_with_the_bytes(later: int, decision: str) -> None:
    lines = grid({**BYTES, "int8": (62, later, later)})
    assert decided(report_on(lines))["int8"].decision == decision


def test_what_was_not_run_says_why() -> None:
    lines = [line for line in grid() if line.cell.wire in ("fp32", "bf16")]
    lines = [
        line for line in lines if (line.cell.first_model, line.cell.wire) != ("mocov2", "bf16")
    ]
    crashed = next(c for c in wire_cells(SMALL, RATES) if c.wire == "topk")
    report = report_on(lines, failed=(FailedLine(cell=crashed, reason="no memory"),))
    assert results(report, "random")["topk"] == Missing(reason="no memory")
    assert results(report, "random")["int8"] == Missing(reason="not run yet")
    found = decided(report)
    assert found["bf16: from Random"].decision == "holds"
    assert found["bf16"].decision == found["bf16: from MoCo-v2"].decision == "not run"
    assert found["topk: from Random"].note == "no memory"
    exact = [line for line in lines if line.cell.wire == "fp32"]
    assert wire_report(Found(exact, {}), []) == Missing(reason="not run yet")
