import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from common.document import figures_of, markdown_of
from common.errors import BadInput
from experiments.paper.report import page_of, sections_of, title_of, write_report
from experiments.paper.report_input import (
    Interval,
    Missing,
    NotRun,
    ReportInput,
)
from tests.support.canned_report import canned, curve, near, result, verdict


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


def page(report: ReportInput) -> str:
    return page_of(title_of(report), sections_of(report))


def markdown(report: ReportInput) -> str:
    return markdown_of(title_of(report), sections_of(report))


@pytest.fixture(scope="module")
def text() -> Text:
    return Text(page(canned()))


def test_verdicts_stand_first(text: Text) -> None:
    assert text.rows[0][:2] == ["Claim", "Read off"]
    assert text.row("MoCo-v2 is best") == [
        "MoCo-v2 is best",
        "table 2",
        "holds",
        "+0.031 AUC +0.011 to +0.051",
        "below 0.001",
        "1.057",
        "3",
        "1234",
        "432",
        "",
    ]
    assert text.row("BYOL is above random weights")[2:4] == [
        "does not hold",
        "-0.028 AUC -0.048 to -0.008",
    ]
    fixed = "of films; the seeds are kept fixed: the interval is over patients alone"
    assert text.row("BYOL is above random weights")[-1] == fixed
    assert text.row("MoCo-v2 is above ImageNet")[2:6] == ["not run", "-", "-", "-"]
    summary = "Claims by verdict: holds: 1, does not hold: 1, undecided: 2, not run: 1."
    assert summary in text.text, "a part of a claim is none"
    assert text.row("Fewer rounds")[3] == "+8.0 rounds +8.0 to +8.0"


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
    assert Text(page(report)).bold == ["0.640"]
    assert "**0.640** (0.620 to 0.660)" in markdown(report)
    table = result().model_copy(update={"lead": near(0.009, 0.009)})
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
    assert text.row("int8 saves")[2:5] == ["holds", "-0.0013 AUC -0.0213 to +0.0187", "-"]
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
