"""The page on one run or several, and its figures as files; imports matplotlib."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from common.document import Block, Section, Table, html_of
from common.errors import BadInput
from common.page import fill, rows
from server.report.compare import (
    curves,
    finding_differences,
    findings,
    hospital_differences,
    in_words,
    side_by_side,
    what_differs,
)
from server.report.conduct import attendance, incidents
from server.report.curves import auc_by_finding, auc_by_hospital, auc_by_round
from server.report.drift import drift
from server.report.facts import (
    configuration,
    environment,
    facts_of,
    hospitals_table,
    limits,
    origin_of,
)
from server.report.pairs import obstacles
from server.report.plot import Plot, figure_of, files_of
from server.report.quality import class_shares, last_aucs, reliability, roc, thresholds
from server.report.run import Run, read_run
from server.report.traffic import hospital_time, server_time, traffic
from server.run.left_out import left_out

NOT_RECORDED = (
    "Not recorded: no hospital told histograms of its logits. Hospitals of this version do, unless "
    "their policy keeps them back."
)


@dataclass(frozen=True)
class Part:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block | Plot]


@dataclass(frozen=True)
class Chapter:
    """All on one run, or on the differences between several.

    Attributes:
        title: Its heading.
        top: HTML under the heading.
        parts: What follows.
    """

    title: str
    top: str
    parts: Sequence[Part]

    @property
    def plots(self) -> Iterator[Plot]:
        """The figures."""
        for part in self.parts:
            yield from (block for block in part.blocks if isinstance(block, Plot))


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read runs; those of the same name are told apart by their hashes.

    Raises:
        BadInput: One is no run, has no round, is damaged, or is given twice.
    """
    runs = [read_run(folder) for folder in folders]
    for i, run in enumerate(runs):
        if any(run.config.run_id == other.config.run_id for other in runs[:i]):
            raise BadInput(f"{run.folder}: run {run.config.run_id} is given twice; leave one out")
    names = [run.name for run in runs]
    return [
        replace(run, name=f"{run.name} ({run.config.run_id})") if names.count(run.name) > 1 else run
        for run in runs
    ]


OF_ALL = "runs"
"""What the names of the figures of several runs begin with."""


def chapters_of(runs: Sequence[Run]) -> list[Chapter]:
    """Return the page's chapters: the differences if there are several runs, then each run."""
    if len(runs) == 1:
        return [_chapter(runs[0])]
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "-", run.name) for run in runs]
    before = [
        f"{name}-{run.config.run_id}" if plain.count(name) > 1 or name == OF_ALL else name
        for name, run in zip(plain, runs, strict=True)
    ]
    chapters = (_prefixed(_chapter(run), name) for run, name in zip(runs, before, strict=True))
    return [_comparison(runs), *chapters]


def page_of(chapters: Sequence[Chapter]) -> str:
    """Return the page."""
    first = chapters[0]
    links = "".join(
        f'<li><a href="#chapter-{i}">{escape(chapter.title)}</a></li>'
        for i, chapter in enumerate(chapters[1:], start=1)
    )
    nav = f"<nav><ul>{links}</ul></nav>" if links else ""
    body = [f"<h1>{escape(first.title)}</h1>", nav, *_html(first)]
    for i, chapter in enumerate(chapters[1:], start=1):
        body += [f'<h1 class="run" id="chapter-{i}">{escape(chapter.title)}</h1>', *_html(chapter)]
    return fill("server.report", "page.html", title=escape(first.title), body="\n".join(body))


def _html(chapter: Chapter) -> Iterator[str]:
    yield chapter.top
    yield html_of(
        [
            Section(
                part.title,
                [figure_of(block) if isinstance(block, Plot) else block for block in part.blocks],
            )
            for part in chapter.parts
        ]
    )


def files_in(chapters: Sequence[Chapter]) -> Iterator[tuple[str, bytes]]:
    """Yield all figures' files by their names."""
    for chapter in chapters:
        for plot in chapter.plots:
            yield from files_of(plot)


def _prefixed(chapter: Chapter, before: str) -> Chapter:
    """Return a chapter whose figures have names of their own among several runs'."""
    parts = [
        replace(
            part,
            blocks=[
                replace(block, name=f"{before}-{block.name}") if isinstance(block, Plot) else block
                for block in part.blocks
            ],
        )
        for part in chapter.parts
    ]
    return replace(chapter, parts=parts)


def _box(kind: str, title: str, lines: Sequence[str]) -> str:
    """Return a box that stands out; nothing without lines."""
    items = "".join(f"<li>{escape(text)}</li>" for text in lines)
    return f'<div class="{kind}">{escape(title)}<ul>{items}</ul></div>' if lines else ""


def _left_out(run: Run) -> list[str]:
    return [f"{name}: {why}" for name, why in left_out(run.rounds, run.events).items()]


def _comparison(runs: Sequence[Run]) -> Chapter:
    first = runs[0]
    lost = [f"{run.name}, {line}" for run in runs for line in _left_out(run)]
    cautions = [
        f"{run.name} and {first.name}: {why}" for run in runs[1:] for why in obstacles(first, run)
    ]
    top = _box("left-out", "Not every hospital counts:", lost)
    top += _box("note", "Compare with care:", cautions)
    return Chapter(
        f"{len(runs)} runs: {', '.join(run.name for run in runs)}",
        top,
        [
            Part("Side by side", [side_by_side(runs)]),
            Part("Round by round", [curves(runs), findings(runs)]),
            Part(
                "Differences",
                [in_words(runs), finding_differences(runs), hospital_differences(runs)],
            ),
            Part("What differs in how they ran", [what_differs(runs)]),
        ],
    )


def _chapter(run: Run) -> Chapter:
    top = _box("left-out", "Not every hospital counts:", _left_out(run))
    facts = rows([name, value] for name, value in facts_of(run).items())
    top += f'<table class="facts"><tbody>\n{facts}\n</tbody></table>'
    return Chapter(
        f"Run {run.name}",
        top,
        [
            Part("Round by round", [auc_by_round(run)]),
            Part("Finding by finding", [last_aucs(run), auc_by_finding(run)]),
            Part("Hospital by hospital", [hospitals_table(run), auc_by_hospital(run)]),
            *_from_histograms(run),
            Part("Who took part", [attendance(run), *_incidents(run)]),
            Part("Who pulls away", [*drift(run)]),
            Part("Time and traffic", [server_time(run), hospital_time(run), traffic(run)]),
            Part("The first model", [origin_of(run)]),
            Part("Configuration", [configuration(run)]),
            Part("Environment", [environment(run)]),
            Part("What this page does not say", [limits(run)]),
        ],
    )


def _from_histograms(run: Run) -> list[Part]:
    films = run.all_films
    if films is None:
        return [Part("ROC curves, calibration and class shares", [NOT_RECORDED])]
    return [
        Part("Sensitivity and specificity", [roc(run, films), *_thresholds(thresholds(films))]),
        Part("Calibration", [reliability(run, films)]),
        Part("Classes at the hospitals", [class_shares(run)]),
    ]


def _thresholds(found: Table) -> list[Block]:
    return [
        "Thresholds of the probability that these films propose. A: the largest sum of sensitivity "
        "and specificity. B: the highest with a sensitivity of 0.9 or more. They are chosen on the "
        "films on which they are measured, and are a proposal: a hospital that uses the model "
        "checks them on its own films.",
        found,
    ]


def _incidents(run: Run) -> list[Block]:
    found = incidents(run)
    return [found] if found.rows else ["Nothing was late, rejected, repeated or changed."]
