"""``flower-report``: one HTML page on a run, for people who were not there.

It needs nothing from elsewhere: styles and the drawing are in the page.
"""

import io
import sys
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.errors import BadInput
from common.findings import FINDINGS
from common.page import fill, rows
from common.runtime.cli import Settings, parse, run_command
from common.runtime.files import write_whole
from common.scores import Scores, rounded
from server.run.left_out import left_out
from server.run.records import (
    Event,
    HospitalRecord,
    InitialModel,
    RoundRecord,
    Validation,
    read_config,
    read_events,
    read_rounds,
    read_run_status,
)

NO_METADATA = ("Creator", "Date", "Format", "Type")


class ReportSettings(Settings):
    """Write a page on a run: how good the model is by finding, and which hospitals took part."""

    model_config = SettingsConfigDict(env_prefix="FLOWER_REPORT_", cli_prog_name="flower-report")

    run: CliPositionalArg[Path] = Field(description="the run's folder")
    out: Path = Field(description="HTML file; one that is there is replaced")


def page(run: Path) -> str:
    """Return the page on a run that has done at least one round.

    Raises:
        BadInput: There is no such run, or one of its files is damaged.
    """
    config, status = read_config(run), read_run_status(run)
    rounds, events = read_rounds(run), read_events(run)
    if not rounds:
        raise BadInput(f"{run}: no round is done yet; there is nothing to report")
    last = rounds[-1]
    validation = status.validation or Validation(auc=None, auc_by_finding={})
    initial = next((event.test for event in events if isinstance(event, InitialModel)), None)
    facts = {
        "Run": config.run_id,
        "State": f"{status.state}, {status.time[:16].replace('T', ' ')} UTC",
        "Rounds": f"{last.round} of {status.rounds or config.rounds}",
        "Model": f"{config.architecture}, {config.mode}, from {Path(config.init).name}",
        "Hospitals": str(len(_names(rounds))),
        "Averaging": f"{config.strategy}, local epochs {config.local_epochs}, learning rate "
        f"{config.lr:g}, batch {config.batch_size}, {config.label_fraction:.0%} of the labels, "
        f"seed {config.seed}",
        "Mean AUC on the test films": _auc_of(last.test),
        "Mean AUC at the hospitals": rounded(validation.auc),
    }
    return fill(
        "server.run",
        "report.html",
        title=escape(f"Run {config.run_id}"),
        left_out=_left_out(rounds, events),
        facts=rows([name, value] for name, value in facts.items()),
        curve=_curve(rounds, initial),
        findings=rows(_finding_rows(last.test, initial, validation)),
        hospitals=rows(_hospital_rows(rounds)),
    )


def _left_out(rounds: list[RoundRecord], events: list[Event]) -> str:
    """Return a box that names the hospitals whose replies did not all count; empty if none."""
    found = left_out(rounds, events)
    lines = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in found.items())
    return (
        f'<div class="left-out">Not every hospital counts:<ul>{lines}</ul></div>' if lines else ""
    )


def _finding_rows(
    test: Scores | None, initial: Scores | None, validation: Validation
) -> Iterable[list[str]]:
    for finding in FINDINGS:
        yield [
            finding.replace("_", " "),
            _auc_of(initial, finding),
            _auc_of(test, finding),
            rounded(validation.auc_by_finding.get(finding)),
        ]


def _hospital_rows(rounds: list[RoundRecord]) -> Iterable[list[str]]:
    for name in _names(rounds):
        parts = [record.hospitals[name] for record in rounds if name in record.hospitals]
        rejected = [record.rejected[name] for record in rounds if name in record.rejected]
        last: HospitalRecord | None = parts[-1] if parts else None
        yield [
            name,
            str(last.examples) if last else "-",
            f"{len(parts)} of {len(rounds)}",
            str(sum(name in record.missing for record in rounds)),
            f"{len(rejected)}: {rejected[-1]}" if rejected else "0",
            rounded(last.loss if last else None),
            rounded(last.auc if last else None),
        ]


def _names(rounds: list[RoundRecord]) -> list[str]:
    return sorted(set().union(*(record.cohort for record in rounds)))


def _auc_of(scores: Scores | None, finding: str | None = None) -> str:
    if scores is None:
        return "-"
    return rounded(scores.auc_by_finding[finding] if finding else scores.auc)


def _curve(rounds: list[RoundRecord], initial: Scores | None) -> str:
    """Return a drawing of the mean AUC round by round, as SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    test = [(record.round, record.test.auc) for record in rounds if record.test]
    if initial is not None:
        test.insert(0, (0, initial.auc))
    # A round's own AUC is that of the model before it.
    at_hospitals = [(record.round - 1, record.auc) for record in rounds]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, points, style in (
        ("test films", test, "o-"),
        ("hospitals' own validation", at_hospitals, "s--"),
    ):
        known = [(x, y) for x, y in points if y is not None]
        if known:
            axes.plot(*zip(*known, strict=True), style, label=name, markersize=4)
    axes.set_xlabel("rounds done")
    axes.set_ylabel("mean AUC")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    drawing = io.StringIO()
    with rc_context({"svg.hashsalt": "fedcxr"}):  # the same run gives the same page
        figure.savefig(drawing, format="svg", metadata=dict.fromkeys(NO_METADATA))
    return drawing.getvalue()[drawing.getvalue().index("<svg") :]


def write_report(run: Path, out: Path) -> None:
    """Write the page on a run; see :func:`page`.

    Raises:
        BadInput: There is no such run, or the file cannot be written.
    """
    text = page(run)
    try:
        write_whole(out, lambda file: file.write(text.encode()))
    except OSError as error:
        raise BadInput(f"{out}: {error.strerror}; give --out another file") from None


def _report(arguments: Sequence[str]) -> None:
    settings = parse(ReportSettings, arguments)
    write_report(settings.run, settings.out)
    print(settings.out)


def main() -> None:
    """Run ``flower-report`` and exit with its code."""
    sys.exit(run_command("flower-report", _report))
