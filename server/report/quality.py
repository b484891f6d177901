"""What the hospitals' histograms tell of the last model: ROC, calibration, thresholds, classes."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator

from common.document import Table
from common.findings import FINDINGS
from common.histograms import Counts, Histograms
from common.readings import (
    Floats,
    OperatingPoint,
    calibration,
    finding_auc,
    roc_points,
    sensitive,
    youden,
)
from common.scores import rounded
from server.report.curves import MEAN, POOLED
from server.report.painting import UNDEFINED, named, numbers, table, upwards, with_counts
from server.report.plot import BLUE, INK, MUTED, PAPER, RED, Look, Panel, Plot
from server.report.run import Run

ROC_STEPS = 20
"""Steps along the axis of a ROC curve's table."""

SQUARE = (1.75, 1.5)


def last_aucs(run: Run) -> Plot:
    """Return each finding's AUC of the last model, with intervals and counts if they are told."""
    number = run.last.round
    first, test = run.tests.get(0), run.tests.get(number)
    pooled = run.pooled.get(number)
    by_finding = {} if pooled is None else pooled.by_finding
    mean = run.validation.auc_by_finding

    def paint(axes: Axes) -> None:
        upwards(axes, [named(finding) for finding in FINDINGS])
        axes.axvline(0.5, color=MUTED, linewidth=1, linestyle=":")
        for row, finding in enumerate(FINDINGS):
            if (of := by_finding.get(finding)) is not None and of.auc is not None:
                if of.low is not None and of.high is not None:
                    axes.plot([of.low, of.high], [row, row], color=RED, linewidth=1.6)
                axes.plot(of.auc, row, "s", color=RED, markersize=5)
            for scores, fill in ((first, PAPER), (test, BLUE)):
                auc = scores.auc_by_finding[finding] if scores else None
                if auc is not None:
                    axes.plot(auc, row - 0.22, "o", color=BLUE, markerfacecolor=fill, markersize=5)
            if (auc := mean.get(finding)) is not None:
                axes.plot(auc, row + 0.22, "^", color=MEAN.colour, markersize=5)

    def cells(finding: str) -> Iterator[str]:
        yield named(finding)
        for scores in (first, test):
            yield rounded(scores.auc_by_finding[finding]) if scores else UNDEFINED
        yield from with_counts(by_finding.get(finding))
        yield rounded(mean.get(finding))

    header = (
        "Finding|Test, first model|Test, last model|Pooled|Low|High|With|Without|Hospitals' mean"
    )
    images = f" Test films: {test.images}." if test else ""
    keys = [
        *([("test films, first model", Look(BLUE, "", "o", hollow=True))] if first else []),
        *([("test films, last model", Look(BLUE, "", "o"))] if test else []),
        *([("all hospitals' validation films, with 95 % interval", POOLED)] if pooled else []),
        ("mean of the hospitals' own AUCs", Look(MEAN.colour, "", "^")),
    ]
    return Plot(
        "last",
        "AUC of each finding, last model",
        "AUC: the chance that a film with the finding gets a higher score than one without it; a "
        "dash is undefined for want of films, or not told. With and Without: validation films of "
        f"all hospitals.{images}",
        [Panel("", paint)],
        table(header.split("|"), (list(cells(finding)) for finding in FINDINGS)),
        keys,
        x="AUC",
        size=(5.2, 5.0),
    )


def roc(run: Run, films: Histograms) -> Plot:
    """Return the ROC curves of the findings."""
    curves = {finding: roc_points(*films.of(finding)) for finding in FINDINGS}

    def paint(finding: str) -> Callable[[Axes], None]:
        def inside(axes: Axes) -> None:
            _square(axes)
            curve = curves[finding]
            if curve is not None:
                corners = _corners(*curve)
                axes.plot(curve[0][corners], curve[1][corners], color=RED, linewidth=1.4)
                for point, marker in ((youden, "o"), (sensitive, "^")):
                    if (at := point(*films.of(finding))) is not None:
                        axes.plot(1 - at.specificity, at.sensitivity, marker, color=INK, ms=4)

        return inside

    def at(finding: str, share: float) -> str:
        curve = curves[finding]
        if curve is None:
            return UNDEFINED
        return rounded(float(curve[1][curve[0] <= share + 1e-9].max()))

    shares = [step / ROC_STEPS for step in range(ROC_STEPS + 1)]
    return Plot(
        "roc",
        "ROC curves",
        "Sensitivity against false alarms, over all thresholds; dotted: a coin. Beside the name: "
        "the AUC and the films with the finding. The table has the sensitivity at shares of false "
        "alarms.",
        [Panel(named(f), paint(f), _auc_and_count(films, f)) for f in FINDINGS],
        table(
            ["1 - specificity", *map(named, FINDINGS)],
            ([f"{share:.2f}", *(at(finding, share) for finding in FINDINGS)] for share in shares),
        ),
        [
            (_model(run), Look(RED)),
            ("largest sensitivity + specificity", Look(INK, "", "o")),
            ("sensitivity of 0.9 or more", Look(INK, "", "^")),
        ],
        x="1 - specificity",
        y="sensitivity",
        size=SQUARE,
    )


def _corners(across: Floats, up: Floats) -> npt.NDArray[np.bool_]:
    """Return which points of a curve are needed to draw it: those where it turns."""
    moves = np.diff(np.stack([across, up]), axis=1)
    alike = (moves[:, 1:] == moves[:, :-1]).all(axis=0) & (moves[:, 1:] == 0).all(axis=0)
    return np.concatenate([[True], ~alike, [True]])


def _auc_and_count(films: Histograms, finding: str) -> str:
    of = finding_auc(*films.of(finding))
    return f"{rounded(of.auc, 2)}, {of.positives} films"


def _model(run: Run) -> str:
    return f"the model after round {run.histograms_of}, all hospitals' validation films"


def _square(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.xaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
    axes.yaxis.set_major_locator(FixedLocator([0, 0.5, 1]))


def reliability(run: Run, films: Histograms) -> Plot:
    """Return the reliability curves of the findings."""
    found = {finding: calibration(*films.of(finding)) for finding in FINDINGS}

    def paint(finding: str) -> Callable[[Axes], None]:
        def inside(axes: Axes) -> None:
            _square(axes)
            if (of := found[finding]) is not None:
                sizes = [4 + 3 * math.log10(n) ** 2 for n in of.films]
                axes.plot(of.predicted, of.observed, color=RED, linewidth=1.2)
                axes.scatter(of.predicted, of.observed, s=sizes, color=RED, zorder=3)

        return inside

    rows = [
        [named(finding), *numbers(predicted, observed), str(count)]
        for finding, of in found.items()
        if of is not None
        for predicted, observed, count in zip(of.predicted, of.observed, of.films, strict=True)
    ]
    return Plot(
        "calibration",
        "Calibration",
        "What share of films has the finding, among films with about the same probability; on the "
        "dotted line the probabilities can be taken at their word. The larger a point, the more "
        "films. Error: the expected calibration error.",
        [
            Panel(named(f), paint(f), f"error {rounded(of.error, 2)}" if of else "")
            for f, of in found.items()
        ],
        table(["Finding", "Mean probability", "Share with it", "Films"], rows),
        [(_model(run), Look(RED, "-", "o"))],
        x="mean probability",
        y="share with the finding",
        size=SQUARE,
    )


def thresholds(films: Histograms) -> Table:
    """Return the thresholds that the histograms propose, as probabilities."""
    rows = []
    for finding in FINDINGS:
        counts = films.of(finding)
        row = [named(finding)]
        for point in (youden(*counts), sensitive(*counts)):
            row += _point(point)
        rows.append([*row, str(int(counts[0].sum())), str(int(counts[1].sum()))])
    header = (
        "Finding|Threshold A|Sensitivity|Specificity|Threshold B|Sensitivity|Specificity|With|"
        "Without"
    )
    return table(header.split("|"), rows)


def _point(point: OperatingPoint | None) -> list[str]:
    if point is None:
        return [UNDEFINED] * 3
    probability = 1 / (1 + math.exp(-point.threshold))
    return numbers(probability, point.sensitivity, point.specificity)


def class_shares(run: Run) -> Plot:
    """Return how many validation films of each hospital have each finding."""
    names = sorted(run.histograms)

    def share(counts: tuple[Counts, Counts]) -> float | None:
        positives, negatives = (int(count.sum()) for count in counts)
        return positives / (positives + negatives) if positives + negatives else None

    shares = [[share(run.histograms[name].of(finding)) for name in names] for finding in FINDINGS]
    largest = max((s for row in shares for s in row if s is not None), default=0.0) or 1.0

    def paint(axes: Axes) -> None:
        for row, values in enumerate(shares):
            for column, value in enumerate(values):
                if value is None:
                    axes.text(column, row, UNDEFINED, ha="center", va="center")
                    continue
                alpha = 0.05 + 0.5 * value / largest
                axes.bar(column, 1, 1, row - 0.5, color=BLUE, alpha=alpha, linewidth=0)
                if len(names) <= SHARES_WRITTEN:
                    axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center")
        upwards(axes, [named(finding) for finding in FINDINGS])
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.5, max(len(names), 1) - 0.5)
        axes.grid(visible=False)

    rows = [
        [
            named(finding),
            *(_of_known(run.histograms[name].of(finding)) for name in names),
        ]
        for finding in FINDINGS
    ]
    return Plot(
        "shares",
        "Films with each finding, by hospital",
        "Per cent of the hospital's validation films of which the finding is known; the darker, "
        "the more. The table has the numbers of films, with the finding of all that are known. A "
        "hospital's policy may keep numbers of few films back.",
        [Panel("", paint)],
        table(["Finding", *names], rows),
        size=(5.2, 5.4),
    )


SHARES_WRITTEN = 14
"""Most hospitals whose shares are written into their cells."""


def _of_known(counts: tuple[Counts, Counts]) -> str:
    positives, negatives = (int(count.sum()) for count in counts)
    return f"{positives} of {positives + negatives}"
