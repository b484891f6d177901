import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from common.document import figures_of, markdown_of
from common.errors import BadInput
from common.findings import FINDINGS
from experiments.paper.cells import FirstModel, Method
from experiments.paper.report import page_of, sections_of, title_of, write_report
from experiments.paper.report_input import (
    MEAN,
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


class Text(HTMLParser):
    """Collects the cells of each row, and all text besides style sheets and drawings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text = ""
        self.bold: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        if tag != "meta":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " "

    def handle_data(self, data: str) -> None:
        if {"style", "svg", "title"} & set(self.open):
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        if "b" in self.open:
            self.bold.append(data)

    def row(self, *start: str) -> list[str]:
        """Return the first row that begins with these cells."""
        return next(row for row in self.rows if tuple(row[: len(start)]) == start)


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
        leads={MEAN: near(0.009, 0.008), "Mass": near(0.009, 0.01)},
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
        "films": 1234,
        "patients": 432,
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
            leads={1: near(0.03), 0.5: near(0.03)},
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


def page(report: ReportInput) -> str:
    return page_of(title_of(report), sections_of(report))


def markdown(report: ReportInput) -> str:
    return markdown_of(title_of(report), sections_of(report))


@pytest.fixture(scope="module")
def text() -> Text:
    return Text(page(canned()))


def test_verdicts_stand_first(text: Text) -> None:
    assert text.rows[0][:2] == ["Claim", "Verdict"]
    assert text.row("MoCo-v2 is best") == [
        "MoCo-v2 is best",
        "holds",
        "+0.031 AUC +0.011 to +0.051",
        "below 0.001",
        "1.057",
        "3",
        "1234",
        "432",
        "table 2",
        "",
    ]
    assert text.row("BYOL is above random weights")[1:3] == [
        "does not hold",
        "-0.028 AUC -0.048 to -0.008",
    ]
    fixed = "of films; the seeds are kept fixed: the interval is over patients alone"
    assert text.row("BYOL is above random weights")[-1] == fixed
    assert text.row("MoCo-v2 is above ImageNet")[1:5] == ["not run", "-", "-", "-"]
    summary = "Claims by verdict: holds: 1, does not hold: 1, undecided: 2, not run: 1."
    assert summary in text.text, "a part of a claim is none"
    assert text.row("Fewer rounds")[2] == "+8.0 rounds +8.0 to +8.0"


def test_table2_has_the_papers_layout(text: Text) -> None:
    header = text.row("First model")
    assert header[1] == "Atelectasis 20 positive of 10 patients"
    assert header[13:] == [
        "Pleural Thickening 32 positive of 22 patients",
        "Hernia † 7 positive of 1 patient",
        "Mean of 13 findings",
        "Mean minus Random",
        "Rate",
        "Seeds",
    ]
    random, moco = text.row("Random"), text.row("MoCo-v2")
    assert random[1:3] == ["0.550 0.530 to 0.570", "0.560 0.540 to 0.580"]
    assert random[14:] == ["-", "0.610 0.590 to 0.630", "-", "0.05 0.1 failed", "3"]
    assert moco[14:] == [
        "0.580",
        "0.640 0.620 to 0.660",
        "+0.030 +0.020 to +0.040",
        "0.05 lowest tried",
        "3",
    ]
    assert text.row("ImageNet") == ["ImageNet", "not run: ImageNet's weights are not at hand"]
    assert "† fewer than 20 positive test films" in text.text
    assert text.text.count("Without an interval: ") == 2, "of table 2, and of the forest plot"


def test_only_a_sure_lead_is_bold() -> None:
    missing = Missing(reason="time")
    report = canned(table3=missing, wires=missing, verdicts=[])
    assert Text(page(report)).bold == ["0.640"]  # the mean; the lead at Mass may be chance
    assert "**0.640** (0.620 to 0.660)" in markdown(report)
    table = result().model_copy(update={"leads": {MEAN: near(0.009, 0.009)}})
    assert Text(page(report.model_copy(update={"table2_spread": table}))).bold == []


def test_table3_has_means_and_drops(text: Text) -> None:
    start = next(i for i, row in enumerate(text.rows) if row[1:2] == ["100%"])
    aucs, drops, leads, rates = (text.rows[start + i : start + i + 3] for i in (0, 3, 6, 9))
    assert aucs[0] == drops[0] == leads[0] == ["First model", "100%", "50%"]
    assert aucs[2] == ["MoCo-v2", "0.630 0.610 to 0.650", "0.620 0.600 to 0.640"]
    assert drops[1] == ["Random", "-", "+0.010 -0.010 to +0.030"]
    assert leads[1:] == [
        ["Random", "-", "-"],
        ["MoCo-v2", *["+0.030 +0.020 to +0.040"] * 2],
    ]
    assert rates[1] == ["Random", "0.1 2 seeds", "0.1 1 seed"]


def test_rounds_and_bytes_to_reach_a_share_of_randoms_auc(text: Text) -> None:
    rows = [row for row in text.rows if row[1] in ("95%", "98%", "100%")][-6:]
    assert rows == [  # random ends at 0.6 and at 0.58
        ["Random", "95%", "0.570, 0.551", "2, 1", "750.0 MB"],
        ["MoCo-v2", "95%", "0.570, 0.551", "1, 1", "500.0 MB"],
        ["Random", "98%", "0.588, 0.568", "3, 2", "1.25 GB"],
        ["MoCo-v2", "98%", "0.588, 0.568", "2, 1", "750.0 MB"],
        ["Random", "100%", "0.600, 0.580", "3, 3", "1.50 GB"],
        ["MoCo-v2", "100%", "0.600, 0.580", "2, 1", "750.0 MB"],
    ]


def test_a_share_that_chance_reaches_is_marked() -> None:
    report = canned(curves=[curve("random", 0, [0.5, 0.51])])
    assert Text(page(report)).row("Random", "95%")[2] == "0.484 no better than chance"
    report = canned(curves=[curve("random", 0, [0.5, 0.51]), curve("random", 1, [0.5, 0.6])])
    assert Text(page(report)).row("Random", "95%")[2] == "0.484, 0.570 some no better than chance"
    report = canned(curves=[curve("mocov2", 0, [0.5, 0.54])])
    assert "random was not measured" in page(report)


def test_methods_are_compared_on_each_split(text: Text) -> None:
    header = ["Method", "Setting", "Non-IID", "minus FedAvg", "p", "Seeds"]
    header += ["IID", "minus FedAvg", "Seeds", "Dirichlet 0.1", "minus FedAvg", "Seeds"]
    start = text.rows.index(header)
    auc, difference = "0.620 0.600 to 0.640", "+0.020 +0.010 to +0.030"
    assert text.rows[start + 1][:6] == ["FedAvg", "-", "0.600 0.580 to 0.620", "-", "-", "2"]
    assert text.rows[start + 2] == [
        *("FedAdam", "0.03 server-lr", auc, difference, "0.030", "2", auc, difference, "1"),
        *("not run", "-", "-"),
    ]
    assert "Strategies, Random, Dirichlet 0.1, FedAvg, FedAdam: the night was over" in text.text


def test_rounds_to_a_share_of_fedavgs_auc_on_the_same_seed(text: Text) -> None:
    shares = [f"Rounds to {share}" for share in ("95%", "98%", "100%")]
    start = text.rows.index(["Method", *shares, "Sent and received"])
    assert text.rows[start + 1 : start + 3] == [  # FedAvg ends at 0.6 and at 0.58
        ["FedAvg", "2, 1", "3, 2", "3, 3", "500.0 MB"],
        ["FedAdam", "1, 3", "2, 3", "2, never", "500.0 MB"],
    ]


def test_wires_are_compared_with_fp32(text: Text) -> None:
    header = ["Wire", "A round after the first", "All rounds", "Mean AUC", "minus fp32", "Seeds"]
    start = text.rows.index(header)
    auc = "0.600 0.580 to 0.620"
    assert text.rows[start + 1 : start + 4] == [
        ["fp32", "566.0 MB 100.0%", "2.83 GB -", auc, "-", "3"],
        ["int8", "131.0 MB 23.1%", "655.0 MB -", auc, "-0.0013 -0.0017 to -0.0009", "3"],
        ["topk", "not run"],
    ]
    assert text.row("int8 saves")[1:4] == ["holds", "-0.0013 AUC -0.0213 to +0.0187", "-"]
    assert "Wires, Random, topk: the line was cut" in text.text


def test_the_other_tables(text: Text) -> None:
    assert ["Hernia †", "7", "1", "+0.030"] in text.rows
    assert ["Atelectasis", "20", "10", "+0.030 -0.020 to +0.080"] in text.rows
    assert text.row("MoCo-v2", "PA")[2:] == [
        "700",
        "9",
        "0.600 0.580 to 0.620",
        "+0.020 +0.010 to +0.030",
    ]
    not_run = ["not run", "-", "-"]
    assert text.row("Federation")[1:] == ["0.610 0.590 to 0.630", "-", "3", *not_run]
    assert text.row("Union of all films")[1:] == [
        "0.630 0.610 to 0.650",
        "+0.021 +0.011 to +0.031",
        "2",
        *not_run,
    ]
    assert text.row("Hospital 0 alone")[1:] == ["0.531 0.511 to 0.551", "-", "1", *not_run]
    assert text.row("hospital-01")[:4] == ["hospital-01", "401", "200", "20"]
    assert text.row("hospital-02")[-2:] == ["30", "10"]
    assert text.row("MoCo-v2", "2")[2:] == ["8.123", "7.001", "0.910", "20.3"]
    assert text.row("Rotation", "1")[2:] == ["1.400", "1.400", "-", "-"]


def test_what_is_missing_says_why(text: Text) -> None:
    everything = Missing(reason="the disk was full")
    names = ["table1", "table2_spread", "table2_last", "table3", "curves", "bounds", "strata"]
    names += ["splits", "pretraining", "strategies", "wires"]
    report = canned(**dict.fromkeys(names, everything), not_run=[])
    empty = page(report)
    assert empty.count("Not run: the disk was full") == len(names) + 1  # the forest plot's
    assert "Figure 6: the disk was full" in empty
    assert "<svg" not in empty
    assert "Table 1: time ended before it" in text.text
    assert "Table 2, ImageNet: ImageNet's weights are not at hand" in text.text
    assert "a trial of BYOL: its checkpoint is broken" in text.text


def test_a_table_without_mocov2_has_no_forest_plot() -> None:
    table = result()
    table = table.model_copy(update={"rows": table.rows[:2], "not_run": {"mocov2": "it diverged"}})
    report = canned(table2_spread=table)
    assert "Not run: it diverged" in Text(page(report)).text
    assert "forest" not in {figure.name for figure in figures_of(sections_of(report))}


def test_both_forms_hold_the_same_numbers() -> None:
    def numbers(text: str) -> list[str]:
        return re.findall(r"[+-]?\d+(?:\.\d+)?", text)

    report = canned()
    plain = re.sub(r"!\[(.*)\]\(\w+\.svg\)", r"\1", markdown(report).split("\n", 1)[1])
    plain = re.sub(r"\|---[-:|]*", "", plain)
    html = Text(page(report)).text.split("scale small", 1)[1]
    assert numbers(plain) == numbers(html)


def test_the_page_needs_nothing_and_escapes_everything() -> None:
    bad = "<script>alert('x')</script> [a](http://b) `c` | **d**"
    changes: dict[str, Any] = {
        "scale": bad,
        "data": bad,
        "endpoint": bad,
        "reasons": [bad],
        "limits": [bad],
        "environment": [bad],
        "commits": [bad],
        "table1": Missing(reason=bad),
        "not_run": [NotRun(what=bad, reason=bad)],
        "verdicts": [verdict(bad, "holds", 0.1).model_copy(update={"note": bad, "table": bad})],
        "table2_spread": result().model_copy(update={"not_run": {"byol": bad}}),
    }
    report = canned(**changes)
    html, text = page(report), markdown(report)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 19
    assert not re.findall(r'(?:src|href)="(?!#)', html)
    assert not re.findall(r"url\((?!#)|@import", html)
    assert "$" not in html
    assert text.count(r"\<script\>") == 18
    assert not re.findall(r"(?<!\\)(?:<|\*\*d|`|\[a)", text)
    lengths = {len(re.findall(r"(?<!\\)\|", row)) for row in text.split("\n") if bad[8:13] in row}
    assert lengths <= {0, 11, 20}


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    report = ReportInput.model_validate_json(canned().model_dump_json())
    assert report == canned()
    write_report(report, tmp_path / "a")
    write_report(report, tmp_path / "b")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [
        *("figure6.svg", "forest.svg", "pretraining.svg", "report.html", "report.md"),
        "strategies.svg",
    ]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    for name in re.findall(r"\((\w+\.svg)\)", (tmp_path / "a" / "report.md").read_text()):
        assert name in files


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="give another folder"):
        write_report(canned(), tmp_path / "file" / "a")


def test_text_in_drawings_is_large_enough() -> None:
    for figure in figures_of(sections_of(canned())):
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", figure.svg)]
        width = float(re.findall(r'width="([\d.]+)pt"', figure.svg)[0])
        narrowest = 25 * 12  # min-width of the page, in points
        assert sizes
        assert min(sizes) * min(1, narrowest / width) >= 9, figure.name


def test_input_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="must not be above"):
        Interval(value=0.5, low=0.6, high=0.4)
    with pytest.raises(ValidationError, match="fourteen"):
        canned(findings=[])
    with pytest.raises(ValidationError):
        canned(curves=[])
