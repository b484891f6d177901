"""The table of an evaluation: model x hospital x finding, as rows, CSV, JSON and text."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from common.differences import MEAN, differences, mean_difference, mean_of
from common.findings import FINDINGS
from common.histograms import total
from common.readings import FindingAuc, aucs_of
from common.runtime.files import write_whole
from common.scores import Scores, rounded
from server.evaluate.records import ScoredModel
from server.run.histograms import read_histograms
from server.run.records import Record

Kind = Literal["hospital", "pooled", "test", "difference"]

NAME_WIDTH, GENERAL_WIDTH, HOSPITAL_WIDTH = 22, 36, 14

MARKED = 0.005
"""A number that binning may have moved by more than this is marked."""


class Row(Record):
    """A number: an AUC, or the difference of two."""

    kind: Kind = Field(
        description="hospital: on one's own films; pooled: on all hospitals' films together; test: "
        "on the server's; difference: of two pooled ones"
    )
    model: int
    minus: int | None = Field(None, description="the model whose AUC is subtracted")
    hospital: str | None = None
    finding: str = Field(description="or mean: over those with an AUC")
    value: float | None = Field(description="None: undefined, or not told by policy")
    low: float | None = Field(None, description="of the 95 % interval; None: too few films")
    high: float | None = None
    positives: int | None = Field(None, description="films that have the finding; None: not told")
    negatives: int | None = Field(None, description="films that are known not to have it")
    bound: float | None = Field(
        None, description="how far binning may have moved the value; None: it is exact"
    )


class TableModel(Record):
    """A model of the table."""

    number: int
    file: str
    origin: str
    sha256: str
    hospitals: list[str] = Field(description="whose scores are here")
    rejected: dict[str, str]
    withheld: list[str]
    missing: list[str]


class Table(Record):
    """All that came of an evaluation."""

    run: str
    seed: int = Field(description="by which hospitals chose the films")
    models: list[TableModel]
    rows: list[Row]


def table_of(folder: Path, run: str, seed: int, scored: Sequence[ScoredModel]) -> Table:
    """Return the table of models that were scored.

    Args:
        folder: Has the histograms.
        run: The evaluation's name.
        seed: By which hospitals chose the films.
        scored: The models; differences are to the first one.

    Raises:
        BadInput: Histograms are damaged.
    """
    rows = [row for each in scored for row in _rows_of(each)]
    rows += [row for each in scored[1:] for row in _differences(folder, each, scored[0])]
    names = ("number", "file", "origin", "sha256", "rejected", "withheld", "missing")
    models = [
        TableModel(hospitals=list(each.hospitals), **{name: getattr(each, name) for name in names})
        for each in scored
    ]
    return Table(run=run, seed=seed, models=models, rows=rows)


def _rows_of(scored: ScoredModel) -> Iterator[Row]:
    number = scored.number
    for name, hospital in scored.hospitals.items():
        yield from _rows("hospital", number, hospital.scores, hospital.findings, name)
    if scored.pooled is not None:
        found = scored.pooled.by_finding
        for finding, auc in found.items():
            rest = _resting_on(auc)
            yield Row(
                kind="pooled",
                model=number,
                finding=finding,
                value=auc.auc,
                bound=auc.bound,
                **rest,
            )
        if (mean := mean_of(found)) is not None:
            yield Row(kind="pooled", model=number, finding=MEAN, **mean._asdict())
    if scored.test is not None:
        yield from _rows("test", number, scored.test)


def _rows(
    kind: Kind,
    number: int,
    scores: Scores,
    findings: Mapping[str, FindingAuc] | None = None,
    hospital: str | None = None,
) -> Iterator[Row]:
    """Yield the rows of scores: the AUCs are exact, intervals and counts are from histograms."""
    of = {"kind": kind, "model": number, "hospital": hospital}
    for finding, auc in scores.auc_by_finding.items():
        told = findings[finding] if findings is not None else None
        rest = _resting_on(told) if told is not None and told.auc is not None else {}
        yield Row.model_validate({**of, "finding": finding, "value": auc, **rest})
    yield Row.model_validate({**of, "finding": MEAN, "value": scores.auc})


def _resting_on(auc: FindingAuc) -> dict[str, Any]:
    return auc.model_dump(include={"low", "high", "positives", "negatives"})


def _differences(folder: Path, one: ScoredModel, other: ScoredModel) -> Iterator[Row]:
    """Yield ``one - other``, on the films of the hospitals that told histograms of both."""
    told, base = (read_histograms(folder, each.number) for each in (one, other))
    both = sorted(told.keys() & base.keys())
    first, second = total(told[name] for name in both), total(base[name] for name in both)
    if first is None or second is None:
        return
    of_one, of_other = aucs_of(first), aucs_of(second)
    found = differences(of_one, of_other)
    if (mean := mean_difference(of_one, of_other)) is not None:
        found[MEAN] = mean
    for finding, of in found.items():
        yield Row(
            kind="difference",
            model=one.number,
            minus=other.number,
            finding=finding,
            **of._asdict(),
        )


def write_table(path: Path, table: Table) -> None:
    """Write a table as CSV, a row for each number, or as JSON, by the file's suffix.

    Raises:
        OSError: The file cannot be written.
    """
    if path.suffix == ".json":
        content = table.model_dump_json(indent=1) + "\n"
    else:
        out = io.StringIO()
        writer = csv.DictWriter(out, ["file", *Row.model_fields], lineterminator="\n")
        writer.writeheader()
        files = {model.number: model.file for model in table.models}
        writer.writerows({"file": files[row.model], **row.model_dump()} for row in table.rows)
        content = out.getvalue()
    write_whole(path, lambda file: file.write(content.encode()))


def text_of(table: Table, width: int) -> Iterator[str]:
    """Yield the table's lines: blocks for each model, and one for each difference.

    Args:
        table: What to show.
        width: Columns; hospitals that do not fit beside each other stand below.
    """
    for model in table.models:
        yield f"model {model.number}: {model.file}: {model.origin}"
        for name, reason in model.rejected.items():
            yield f"  not in it: {name}: {reason}"
        for name in model.withheld:
            yield f"  not in it: {name}: its policy withholds the scores"
        for name in model.missing:
            yield f"  not in it: {name}: no answer"
        rows = [row for row in table.rows if row.model == model.number]
        general = {
            title: {row.finding: row for row in rows if row.kind == kind}
            for kind, title in (("pooled", "all films"), ("test", "test films"))
        }
        hospitals = {
            name: {row.finding: row for row in rows if row.hospital == name}
            for name in model.hospitals
        }
        yield from _block({title: of for title, of in general.items() if of}, GENERAL_WIDTH)
        names, room = list(hospitals), max(1, (width - NAME_WIDTH) // HOSPITAL_WIDTH)
        for start in range(0, len(names), room):
            some = {name: hospitals[name] for name in names[start : start + room]}
            yield from _block(some, HOSPITAL_WIDTH)
    yield from _difference_lines(table)
    if any(map(_mark, table.rows)):
        yield f"~: counted in bins, and so perhaps more than {MARKED} from the logits' own"


def _block(columns: Mapping[str, Mapping[str, Row]], width: int) -> Iterator[str]:
    """Yield a line for each finding: its AUC in each column."""
    if not columns:
        return
    titles = (f"{title[: width - 1]:<{width}}" for title in columns)
    yield f"  {'finding':<{NAME_WIDTH - 2}}{''.join(titles)}".rstrip()
    for finding in (*FINDINGS, MEAN):
        cells = (f"{_cell(rows.get(finding)):<{width}}" for rows in columns.values())
        yield f"  {finding:<{NAME_WIDTH - 2}}{''.join(cells)}".rstrip()


def _cell(row: Row | None) -> str:
    """Return an AUC, for all films with its interval, and how many films of how many have it."""
    if row is None or row.value is None:
        return "-"
    text = _mark(row) + rounded(row.value)
    if row.kind == "pooled" and row.low is not None:
        text += f" ({rounded(row.low)} to {rounded(row.high)})"
    if row.positives is not None and row.negatives is not None:
        text += f" {row.positives}/{row.positives + row.negatives}"
    return text


def _mark(row: Row) -> str:
    return "~" if (row.bound or 0) > MARKED else ""


def _difference_lines(table: Table) -> Iterator[str]:
    for model in table.models[1:]:
        rows = [row for row in table.rows if row.kind == "difference" and row.model == model.number]
        if not rows:
            continue
        yield f"model {model.number} minus model {rows[0].minus}, on all films"
        for row in rows:
            ends = ""
            if row.low is not None and row.high is not None:
                ends = f" ({row.low:+.3f} to {row.high:+.3f})"
            value = f"{_mark(row)}{row.value or 0.0:+.3f}"
            yield f"  {row.finding:<{NAME_WIDTH - 2}}{value}{ends}"
    if any(row.kind == "difference" for row in table.rows):
        yield "Intervals of differences are as if each model were scored on other films;"
        yield "as they are the same films, the intervals are wider than they need be."
