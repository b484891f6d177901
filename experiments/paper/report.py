"""The report on the paper's claims: one self-contained HTML page, and the same as Markdown."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import BinaryIO, get_args

from common.document import Block, Items, Section, figures_of, html_of, markdown_of
from common.errors import BadInput
from common.runtime.files import write_whole
from experiments.paper.cells import Split
from experiments.paper.claims import FINAL_SHARES, SIGNIFICANCE
from experiments.paper.report_figures import figure6, forest, pretraining
from experiments.paper.report_input import (
    TITLES,
    ByFinding,
    FindingCount,
    Interval,
    Missing,
    ReportInput,
    ResultTable,
    WireReport,
)
from experiments.paper.report_strategies import missing_strategies, strategy_blocks
from experiments.paper.report_tables import (
    NOT_PRIMARY,
    bounds_table,
    finding_title,
    forest_table,
    fraction_tables,
    pretraining_table,
    result_table,
    shares_table,
    split_table,
    strata_table,
    verdict_table,
)
from experiments.paper.report_wires import missing_wires, wire_blocks
from experiments.paper.verdict import Decision

SPLITS: dict[Split, str] = {
    "iid": "IID, equal parts",
    "spread": "Non-IID, the paper's partition; each hospital has films without a finding (spread)",
    "last": "Non-IID, the paper's partition; only the last hospitals have films without a finding "
    "(last)",
    "dirichlet": "Dirichlet: each finding's films in shares drawn from Dir(0.1)",
}

MODES = {"linear": "only the head", "finetune": "all weights"}


def sections_of(report: ReportInput) -> list[Section]:
    """Return the report's sections, in their order."""
    return [
        _verdicts(report),
        Section("Table 1: linear evaluation", _result(report.table1, report)),
        Section("Table 2: fine-tuning, Non-IID", _result(report.table2_spread, report)),
        Section(
            "Table 2, last: the partition's other reading", _result(report.table2_last, report)
        ),
        Section("MoCo-v2 against random weights, by finding", _forest(report)),
        Section("By view position", _strata(report)),
        Section("Table 3: fewer labels", _fractions(report)),
        Section("Figure 6: AUC by round", _rounds(report)),
        Section("Strategies", _strategies(report)),
        Section("Wires: fewer bytes", _wires(report)),
        Section("Bounds: without a federation", _bounds(report)),
        Section("Figure 4: how the films were shared out", _splits(report)),
        Section("Pretraining", _pretraining(report)),
        Section("What was not run, and why", _not_run(report)),
        Section("Hospitals rejected or excluded", _left_out(report)),
        Section(f"The scale {report.scale}", [Items(report.reasons)]),
        Section("Environment", [Items(report.environment)]),
        Section("How to read it", [Items(_reading(report))]),
        Section("What it does not mean", [Items(_limits(report))]),
    ]


def title_of(report: ReportInput) -> str:
    """Return the report's title."""
    return f"FedCXR: the paper's claims at the scale {report.scale}"


def page_of(title: str, sections: Sequence[Section]) -> str:
    """Return the document as one page that needs nothing from elsewhere."""
    template = (files("experiments.paper") / "report.html").read_text(encoding="utf-8")
    return Template(template).substitute(title=escape(title), body=html_of(sections))


def write_report(report: ReportInput, folder: Path) -> None:
    """Write ``report.html``, ``report.md`` and the drawings of the latter, ``*.svg``.

    Raises:
        BadInput: A file cannot be written.
    """
    title, sections = title_of(report), sections_of(report)
    texts = {"report.html": page_of(title, sections), "report.md": markdown_of(title, sections)}
    texts |= {f"{figure.name}.svg": figure.svg for figure in figures_of(sections)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_whole(folder / name, partial(_write, text.encode()))
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror}; give another folder") from None


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _verdicts(report: ReportInput) -> Section:
    claims = [verdict for verdict in report.verdicts if not verdict.part]
    counts = Counter(verdict.decision for verdict in claims)
    summary = ", ".join(f"{name}: {counts[name]}" for name in get_args(Decision))
    blocks: list[Block] = [
        f"{report.data} Code: {', '.join(report.commits)}.",
        f"Primary endpoint, fixed before the first trial: {report.endpoint}",
        f"Claims by verdict: {summary}.",
        verdict_table(report.verdicts),
    ]
    return Section("Verdicts", blocks)


def _missing(missing: Missing) -> list[Block]:
    return [f"Not run: {missing.reason}"]


def _result(table: ResultTable | Missing, report: ReportInput) -> list[Block]:
    if isinstance(table, Missing):
        return _missing(table)
    return [
        f"Split: {SPLITS[table.split]}. Training: {MODES[table.mode]}. AUC on the test films, "
        "mean over seeds, with 95% intervals.",
        result_table(table, report.findings),
        *_marked(report),
        *_without_interval([row.auc_by_finding for row in table.rows]),
    ]


def _marked(report: ReportInput) -> list[Block]:
    if all(finding.primary for finding in report.findings):
        return []
    return [
        f"{NOT_PRIMARY} fewer than {report.least_positives} positive test films: "
        "not in the mean, shown for completeness."
    ]


def _without_interval(numbers: Sequence[ByFinding]) -> list[Block]:
    if all(isinstance(of, Interval | None) for each in numbers for of in each.values()):
        return []
    return [
        "Without an interval: with the finding, or without it, there are films of so few patients "
        "that some draws of patients have none."
    ]


def _forest(report: ReportInput) -> list[Block]:
    table = report.table2_spread
    if isinstance(table, Missing):
        return _missing(table)
    row = next((row for row in table.rows if row.first_model == "mocov2"), None)
    if row is None:
        reason = table.not_run.get("mocov2", "table 2 has no row of MoCo-v2")
        return _missing(Missing(reason=reason))
    estimates = [
        (finding_title(finding), interval.value, interval.low, interval.high, finding.primary)
        for finding in report.findings
        if isinstance(interval := row.over_random_by_finding.get(finding.name), Interval)
    ]
    if row.over_random is not None:
        mean = row.over_random
        estimates.append(("Mean", mean.value, mean.low, mean.high, True))
    return [
        "Under table 2. The intervals of single findings are not adjusted for their number.",
        forest(estimates),
        forest_table(row, report.findings),
        *_without_interval([row.over_random_by_finding]),
    ]


def _strata(report: ReportInput) -> list[Block]:
    if isinstance(report.strata, Missing):
        return _missing(report.strata)
    return [
        "Under table 2. Bedside films (AP) are often of sicker patients: a model that tells the "
        "views apart can score well on all films and worse within one view. A view has its own "
        "findings with enough positive films, so that means of two views, and those of all films, "
        "are of different findings: compare first models within a view.",
        strata_table(report.strata),
    ]


def _fractions(report: ReportInput) -> list[Block]:
    if isinstance(report.table3, Missing):
        return _missing(report.table3)
    aucs, drops, leads, rates = fraction_tables(report.table3)
    return [
        "Mean AUC on the test films with a share of each hospital's labels.",
        aucs,
        "Drop: AUC with all labels minus AUC with fewer; smaller is better.",
        drops,
        "Mean minus Random with as many labels, over the seeds that both have. These differences "
        "are no planned comparisons, and their intervals are not adjusted for their number.",
        leads,
        "Learning rates, chosen by the hospitals' validation, and seeds.",
        rates,
    ]


def _rounds(report: ReportInput) -> list[Block]:
    if isinstance(report.curves, Missing):
        return _missing(report.curves)
    blocks: list[Block] = [figure6(report.curves)]
    table = shares_table(report.curves)
    if table is None:
        return [*blocks, "Rounds to reach a share of random's final AUC: random was not measured."]
    shares = ", ".join(f"{share:.0%}" for share in FINAL_SHARES)
    return [
        *blocks,
        f"The first round after which the test AUC is at least {shares} of the AUC that random "
        "weights end at on the same seed, and the bytes that all hospitals sent and received until "
        "then. Round 0: the first model is as good before it is trained.",
        table,
    ]


def _strategies(report: ReportInput) -> list[Block]:
    if isinstance(report.strategies, Missing):
        return _missing(report.strategies)
    return strategy_blocks(report.strategies)


def _wires(report: ReportInput) -> list[Block]:
    if isinstance(report.wires, Missing):
        return _missing(report.wires)
    return wire_blocks(report.wires)


def _bounds(report: ReportInput) -> list[Block]:
    if isinstance(report.bounds, Missing):
        return _missing(report.bounds)
    return [
        "Mean AUC on the same test films, from the same first models. The federation is that of "
        "table 2; the others train at the rate that was chosen for it, and as many epochs as it "
        "has rounds. Differences are over the seeds that both have.",
        bounds_table(report.bounds),
    ]


def _splits(report: ReportInput) -> list[Block]:
    if isinstance(report.splits, Missing):
        return _missing(report.splits)
    blocks: list[Block] = [
        "Training films with each finding; the darker, the larger the hospital's share of them."
    ]
    for split in report.splits:
        blocks += [f"{SPLITS[split.split]}:", split_table(split, report.findings)]
    return blocks


def _pretraining(report: ReportInput) -> list[Block]:
    if isinstance(report.pretraining, Missing):
        return _missing(report.pretraining)
    return [pretraining(report.pretraining), pretraining_table(report.pretraining)]


def _not_run(report: ReportInput) -> list[Block]:
    tables = {
        "Table 1": report.table1,
        "Table 2": report.table2_spread,
        "Table 2, last": report.table2_last,
        "Table 3": report.table3,
        "Figure 6": report.curves,
        "Strategies": report.strategies,
        "Wires": report.wires,
        "Bounds": report.bounds,
        "By view position": report.strata,
        "Figure 4": report.splits,
        "Pretraining": report.pretraining,
    }
    items = []
    for name, table in tables.items():
        if isinstance(table, Missing):
            items.append(f"{name}: {table.reason}")
        elif isinstance(table, WireReport):
            items += missing_wires(table.tables)
        elif not isinstance(table, list):
            items += [f"{name}, {TITLES[row]}: {why}" for row, why in table.not_run.items()]
    if not isinstance(report.strategies, Missing):
        items += missing_strategies(report.strategies)
    items += [f"{entry.what}: {entry.reason}" for entry in report.not_run]
    return [Items(items)] if items else ["Everything was run."]


def _left_out(report: ReportInput) -> list[Block]:
    items = [f"{entry.what}: {entry.reason}" for entry in report.left_out]
    return [Items(items)] if items else ["None, in any round of any trial."]


def _reading(report: ReportInput) -> list[str]:
    return [
        "AUC: the chance that a film with the finding gets a higher score than one without it. "
        "0.5 is a coin, 1 is perfect; a dash is undefined or not measured.",
        "Mean: over the findings with at least "
        f"{report.least_positives} positive test films ({_primary(report.findings)} of "
        f"{len(report.findings)}).",
        "Intervals are of 95%, by drawing test patients anew with the same draws for all models, "
        "and seeds too where there are three or more; with fewer they are too narrow. Films are "
        "not drawn singly: those of one patient resemble each other. Their ends are percentiles of "
        "the draws: with few patients, of whom some have many films, an estimate need not lie in "
        "the middle.",
        "The interval of rounds saved is Student's t over seeds: patients are not drawn, as no "
        "scores are kept of the models of single rounds.",
        "Differences are paired, over the seeds that both models have, and have intervals of "
        "their own: where one has more seeds, a difference is not that of the two means that stand "
        "there. Whether the intervals of two AUCs overlap says little.",
        "p is two-sided and adjusted after Holm for all planned comparisons of its table; those "
        "not run yet count as p = 1, so that p can only fall as they arrive.",
        "A claim holds if the interval of its difference lies above 0, and does not hold if it "
        f"lies below 0, either with a p below {SIGNIFICANCE}. One of a ratio does not hold if the "
        "ratio's interval leaves it out: there is no p of that. Of several comparisons together "
        "all must hold, and one that does not hold decides.",
        "Undecided: the films and seeds are too few to tell. It does not mean no difference.",
        "Bold: the best mean of its table, only where the interval of its lead over the next one "
        "excludes 0. A table without bold has no sure winner.",
        "Rate: each first model had the same learning rates to choose from; the hospitals' own "
        "validation chose, never the test films. Lowest or highest tried: a rate beyond it might "
        "have been better. One at which training diverged is passed over, and named.",
    ]


def _primary(findings: list[FindingCount]) -> int:
    return sum(finding.primary for finding in findings)


def _limits(report: ReportInput) -> list[str]:
    return [
        *report.limits,
        f"The numbers are those of the scale {report.scale}: its films, image size, rounds and "
        "pretraining. They say nothing of other sizes.",
        "An AUC is a ranking of these test films. It is neither a rate of errors nor a benefit "
        "to patients, here or elsewhere.",
        "Where nothing is adjusted, one in twenty intervals excludes 0 by chance.",
        "Made by FedCXR. Not a medical device.",
    ]
