"""What a report shows, made up: every table, with something missing in most."""

from typing import Any

from common.findings import FINDINGS
from experiments.paper.cells import FirstModel, Method
from experiments.paper.report_input import (
    Bound,
    BoundResult,
    ByFinding,
    Curve,
    CurvePoint,
    Epoch,
    FindingCount,
    FractionCell,
    FractionRow,
    FractionTable,
    HospitalCounts,
    Interval,
    MethodResult,
    MethodRow,
    Missing,
    NotRun,
    Number,
    Pretraining,
    ReportInput,
    ResultTable,
    Row,
    SplitCounts,
    StrategyTable,
    Stratum,
    Traffic,
    WireReport,
    WireResult,
    WireTable,
)
from experiments.paper.verdict import Verdict


def near(value: float, half: float = 0.02) -> Interval:
    return Interval(value=value, low=value - half, high=value + half)


def row(name: FirstModel, start: float, over: float | None) -> Row:
    aucs: ByFinding = {finding: near(start + i / 100) for i, finding in enumerate(FINDINGS)}
    difference = None if over is None else near(over, 0.01)
    hernia = None if name == "random" else Number(value=start)
    return Row(
        first_model=name,
        auc_by_finding=aucs | {"Hernia": hernia},
        mean=near(start + 0.0604),
        lr=0.05,
        seeds=3 if name in ("random", "mocov2") else 2,
        edge="lowest" if name == "mocov2" else None,
        failed_rates=[0.1] if name == "random" else [],
        over_random=difference,
        over_random_by_finding={}
        if over is None
        else {f: near(over, 0.05) for f in FINDINGS} | {"Hernia": Number(value=over)},
    )


def result() -> ResultTable:
    return ResultTable(
        split="spread",
        mode="finetune",
        rows=[row("random", 0.55, None), row("simclr", 0.571, 0.021), row("mocov2", 0.58, 0.03)],
        lead=near(0.009, 0.008),
        not_run={"imagenet": "ImageNet's weights are not at hand"},
    )


def curve(name: FirstModel, seed: int, aucs: list[float]) -> Curve:
    points = [
        CurvePoint(round=i, validation_auc=auc + 0.01, test_auc=auc, bytes=i * 500_000_000)
        for i, auc in enumerate(aucs)
    ]
    return Curve(first_model=name, seed=seed, points=points)


def fractions(name: FirstModel, start: float) -> FractionRow:
    over = None if name == "random" else near(0.03, 0.01)
    cells = [
        FractionCell(fraction=1, mean=near(start), drop=None, over_random=over, lr=0.1, seeds=2),
        FractionCell(
            fraction=0.5,
            mean=near(start - 0.0104),
            drop=near(0.0104),
            over_random=over,
            lr=0.1,
            seeds=1,
        ),
    ]
    return FractionRow(first_model=name, cells=cells)


def method_row(
    method: Method, start: float, over: float | None, curves: list[list[float]]
) -> MethodRow:
    difference = None if over is None else near(over, 0.01)
    p = None if over is None else 0.0304
    measured = MethodResult(mean=near(start), over_fedavg=difference, p=p, seeds=2)
    return MethodRow(
        method=method,
        setting=0.03 if method == "fedadam" else None,
        results={
            "spread": measured,
            "iid": measured.model_copy(update={"p": None, "seeds": 1}),
            "dirichlet": Missing(reason="the night was over"),
        },
        curves=[curve("random", seed, aucs) for seed, aucs in enumerate(curves)],
    )


def strategies() -> list[StrategyTable]:
    fedavg = method_row("fedavg", 0.6, None, [[0.5, 0.55, 0.58, 0.6], [0.5, 0.56, 0.57, 0.58]])
    fedadam = method_row("fedadam", 0.62, 0.02, [[0.5, 0.58, 0.6, 0.62], [0.5, 0.5, 0.53, 0.57]])
    return [StrategyTable(first_model="random", rows=[fedavg, fedadam])]


def wires() -> WireReport:
    def result(size: int, over: float | None) -> WireResult:
        return WireResult(
            mean=near(0.6),
            over_fp32=None if over is None else near(over, 0.0004),
            seeds=3,
            later=Traffic(bytes=size, share=size / 566_000_000),
            total=Traffic(bytes=5 * size, share=None),
        )

    table = WireTable(
        first_model="random",
        results={
            "fp32": result(566_000_000, None),
            "int8": result(131_000_000, -0.00126),
            "topk": Missing(reason="the line was cut"),
        },
    )
    holds = verdict("int8 saves", "holds", -0.00126).model_copy(update={"p": None})
    return WireReport(verdicts=[holds], tables=[table])


def verdict(claim: str, decision: Any, difference: float | None) -> Verdict:
    return Verdict(
        claim=claim,
        table="table 2",
        decision=decision,
        difference=difference,
        low=None if difference is None else difference - 0.02,
        high=None if difference is None else difference + 0.02,
        p=None if difference is None else 0.0004,
        ratio=None if difference is None else 1.0567,
        seeds=3,
        films=1234,
        patients=432,
        note="",
    )


def canned(**changes: Any) -> ReportInput:
    values: dict[str, Any] = {
        "scale": "small",
        "reasons": ["Views of 64 pixels: two cores train them in a night."],
        "data": "Ten hospitals of films.",
        "endpoint": "mean test AUC under table 2.",
        "commits": ["0123abc"],
        "findings": [
            FindingCount(
                name=finding,
                positives=20 + i if i < 13 else 7,
                patients=10 + i if i < 13 else 1,
                primary=i < 13,
            )
            for i, finding in enumerate(FINDINGS)
        ],
        "verdicts": [
            verdict("MoCo-v2 is best", "holds", 0.0306),
            verdict("SimCLR is above Rotation", "undecided", 0.0094),
            verdict("BYOL is above random weights", "does not hold", -0.0281).model_copy(
                update={"note": "of films", "seeds": 2, "seeds_fixed": True}
            ),
            verdict("MoCo-v2 is above ImageNet", "not run", None),
            verdict("Fewer rounds", "undecided", 8.0).model_copy(update={"table": "figure6"}),
            verdict("Fewer rounds: to 95 %", "holds", 9.0).model_copy(
                update={"table": "figure6", "part": True}
            ),
        ],
        "table1": Missing(reason="time ended before it"),
        "table2_spread": result(),
        "table2_last": Missing(reason="time ended <b>too</b>"),
        "table3": FractionTable(
            rows=[fractions("random", 0.6), fractions("mocov2", 0.63)],
        ),
        "curves": [
            curve("random", 0, [0.5, 0.54, 0.57, 0.6]),
            curve("random", 1, [0.5, 0.56, 0.57, 0.58]),
            curve("mocov2", 0, [0.52, 0.58, 0.6, 0.62]),
            curve("mocov2", 1, [0.52, 0.585, 0.58, 0.61]),
        ],
        "strategies": strategies(),
        "wires": wires(),
        "bounds": [
            Bound(
                first_model="random",
                federation=BoundResult(mean=near(0.61), over_federation=None, seeds=3),
                union=BoundResult(mean=near(0.63), over_federation=near(0.021, 0.01), seeds=2),
                alone={0: BoundResult(mean=near(0.5312), over_federation=None, seeds=1)},
            ),
            Bound(first_model="mocov2", federation=None, union=None, alone={}),
        ],
        "strata": [
            Stratum(
                first_model="mocov2",
                view="PA",
                films=700,
                findings=9,
                mean=near(0.6),
                over_random=near(0.0204, 0.01),
            )
        ],
        "splits": [
            SplitCounts(
                split="spread",
                hospitals=[
                    HospitalCounts(
                        hospital=f"hospital-{i:02}",
                        films=400 + i,
                        patients=200,
                        positives=dict.fromkeys(FINDINGS, (i + 1) * 10),
                        without=5 * i,
                    )
                    for i in range(3)
                ],
            )
        ],
        "pretraining": [
            Pretraining(
                method="mocov2",
                epochs=[
                    Epoch(epoch=1, loss=8.1234, spread=0.5, rank=3),
                    Epoch(epoch=2, loss=7.0006, spread=0.91, rank=20.26),
                ],
            ),
            Pretraining(
                method="rotation", epochs=[Epoch(epoch=1, loss=1.4, spread=None, rank=None)]
            ),
        ],
        "not_run": [NotRun(what="a trial of BYOL", reason="its checkpoint is broken")],
        "environment": ["torch 2.14.1, 2 threads, bf16"],
    }
    return ReportInput(**values | changes)
