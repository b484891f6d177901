"""How good the models are, round by round: of all films, by finding and by hospital."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from matplotlib.axes import Axes

from common.differences import mean_interval
from common.findings import FINDINGS
from server.report.look import BLUE, GREEN, MUTED, RED, Look
from server.report.painting import (
    BAND,
    band,
    limits_of,
    line,
    named,
    numbers,
    over_rounds,
    table,
    with_counts,
)
from server.report.plot import Panel, Plot
from server.report.run import Run

TEST, POOLED, MEAN = Look(BLUE, "-", "o"), Look(RED, "--", "s"), Look(GREEN, "-.", "^")

SPREAD = Look(MUTED, filled=True, alpha=BAND)

MOST_PANELS = 30

LABELS = {
    "test": "test films, which belong to no hospital",
    "pooled": "validation films of all hospitals together, with 95 % interval",
    "mean": "mean of the hospitals' own AUCs",
}

Ends = tuple[float, float]


def auc_by_round(run: Run) -> Plot:
    """Return the mean AUC by round on the test films and on the hospitals' own."""
    test = {number: scores.auc for number, scores in run.tests.items()}
    pooled = {number: of.auc for number, of in run.pooled.items()}
    ends = {number: mean_interval(of.by_finding) for number, of in run.pooled.items()}
    mean = {number: of.auc for number, of in run.validations.items()}
    spread = {number: _range(run, number) for number in mean}

    def paint(axes: Axes) -> None:
        band(axes, spread, SPREAD)
        band(axes, ends, POOLED)
        line(axes, mean, MEAN)
        line(axes, pooled, POOLED)
        line(axes, test, TEST)
        over_rounds(axes, run.last.round)

    rows = (
        [
            str(number),
            *numbers(test.get(number), pooled.get(number), *(ends.get(number) or (None, None))),
            *numbers(mean.get(number), *(spread.get(number) or (None, None))),
        ]
        for number in sorted({*test, *pooled, *mean})
    )
    header = [
        "Rounds done",
        "Test",
        "Pooled",
        "Pooled, low",
        "Pooled, high",
        "Hospitals' mean",
        "Lowest hospital",
        "Highest hospital",
    ]
    keys = [
        *([(LABELS["test"], TEST)] if test else []),
        *([(LABELS["pooled"], POOLED)] if pooled else []),
        (LABELS["mean"], MEAN),
        ("from the lowest hospital to the highest", SPREAD),
    ]
    return Plot(
        "auc",
        "Mean AUC by round",
        "0.5 is a coin, 1 is perfect. The mean is over the findings where an AUC is defined. The "
        "interval errs on the wide side: it holds however the findings hang together.",
        [Panel("", paint)],
        table(header, rows),
        keys,
        x="rounds done",
        y="mean AUC",
    )


def auc_by_finding(run: Run) -> Plot:
    """Return each finding's AUC by round, in small panels."""
    header = "Finding|Rounds done|Test|Pooled|Low|High|With|Without|Hospitals' mean"
    rounds = sorted({*run.tests, *run.pooled, *run.validations})
    rows = ([named(f), str(n), *_numbers(run, f, n)] for f in FINDINGS for n in rounds)
    keys = [(LABELS["mean"], MEAN)]
    keys = [(LABELS["pooled"], POOLED), *keys] if run.pooled else keys
    keys = [(LABELS["test"], TEST), *keys] if run.tests else keys
    return Plot(
        "findings",
        "AUC of each finding by round",
        "Under the name: validation films with the finding, of all hospitals."
        if run.pooled
        else "How many films have each finding is not recorded.",
        [Panel(named(f), partial(_finding, run, f), _positives(run, f)) for f in FINDINGS],
        table(header.split("|"), rows),
        keys,
        x="rounds done",
        y="AUC",
        size=SMALL_SIZE,
        limits=limits_of(column for f in FINDINGS for column in _columns(run, f)),
    )


SMALL_SIZE = (1.75, 1.25)


def _columns(run: Run, finding: str) -> Iterator[Mapping[int, float | None]]:
    """Yield a finding's test AUC, pooled AUC, its ends, and the hospitals' mean, by rounds done."""
    yield {n: scores.auc_by_finding[finding] for n, scores in run.tests.items()}
    pooled = {n: of.by_finding[finding] for n, of in run.pooled.items()}
    yield {n: of.auc for n, of in pooled.items()}
    yield {n: of.low for n, of in pooled.items()}
    yield {n: of.high for n, of in pooled.items()}
    yield {n: of.auc_by_finding.get(finding) for n, of in run.validations.items()}


def _numbers(run: Run, finding: str, number: int) -> list[str]:
    """Return a finding's numbers after so many rounds, as cells."""
    test, validation = run.tests.get(number), run.validations.get(number)
    pooled = run.pooled.get(number)
    return [
        *numbers(test.auc_by_finding[finding] if test else None),
        *with_counts(pooled.by_finding[finding] if pooled else None),
        *numbers(validation.auc_by_finding.get(finding) if validation else None),
    ]


def _finding(run: Run, finding: str, axes: Axes) -> None:
    test, pooled, low, high, mean = _columns(run, finding)
    band(axes, _ends(low, high), POOLED)
    for points, look in ((mean, MEAN), (pooled, POOLED), (test, TEST)):
        line(axes, points, _thin(look))
    over_rounds(axes, run.last.round)


def _thin(look: Look) -> Look:
    return Look(look.colour, look.dash, "", 1.3)


def _ends(
    low: Mapping[int, float | None], high: Mapping[int, float | None]
) -> dict[int, Ends | None]:
    pairs = {n: (low[n], high[n]) for n in low}
    return {n: None if a is None or b is None else (a, b) for n, (a, b) in pairs.items()}


def _positives(run: Run, finding: str) -> str:
    last = run.last_pooled
    return f"{last.by_finding[finding].positives} films" if last else ""


def auc_by_hospital(run: Run) -> Plot:
    """Return each hospital's mean AUC on its own validation films, in small panels.

    If there are more hospitals than panels that a page can bear, those with the lowest last AUC.
    """
    own = {name: run.own(name) for name in run.hospitals}
    curves = {name: {n: of.auc for n, of in by_round.items()} for name, by_round in own.items()}
    ends = {
        name: {n: mean_interval(of.by_finding) for n, of in by_round.items()}
        for name, by_round in own.items()
    }
    shown = sorted(curves, key=lambda name: _last(curves[name]))[:MOST_PANELS]
    mean = {number: of.auc for number, of in run.validations.items()}

    def paint(name: str) -> Callable[[Axes], None]:
        def inside(axes: Axes) -> None:
            band(axes, ends[name], POOLED)
            line(axes, mean, Look(MUTED, ":", "", 1.2))
            line(axes, curves[name], Look(RED, "-", "", 1.5))
            over_rounds(axes, run.last.round)

        return inside

    films = {name: max((of.films for of in own[name].values()), default=0) for name in own}
    rows = (
        [str(n), *numbers(*(curves[name].get(n) for name in run.hospitals))]
        for n in range(run.last.round + 1)
    )
    header = ["Rounds done", *(f"{name}, {films[name]} films" for name in run.hospitals)]
    left = len(run.hospitals) - len(shown)
    more = f" {left} more hospitals are in the table; the lowest are drawn." if left else ""
    return Plot(
        "hospitals",
        "Mean AUC at each hospital by round",
        "On the hospital's own validation films. An AUC of few films jumps by chance, and its "
        f"interval is wide.{more}",
        [Panel(name, paint(name), f"{films[name]} films") for name in sorted(shown)],
        table(header, rows),
        [
            ("this hospital", Look(RED, "-", "")),
            *([("its 95 % interval", Look(RED, filled=True, alpha=BAND))] if run.pooled else []),
            ("mean of all", Look(MUTED, ":", "")),
        ],
        x="rounds done",
        y="mean AUC",
        size=SMALL_SIZE,
        limits=limits_of([mean, *curves.values(), *_both(ends.values())]),
    )


def _both(bands: Iterable[Mapping[int, Ends | None]]) -> Iterator[dict[int, float]]:
    """Yield the lower and the upper ends of bands."""
    for ends in bands:
        for end in (0, 1):
            yield {n: pair[end] for n, pair in ends.items() if pair is not None}


def _last(curve: Mapping[int, float | None]) -> float:
    known = [auc for _, auc in sorted(curve.items()) if auc is not None]
    return known[-1] if known else 2.0


def _range(run: Run, number: int) -> Ends | None:
    """Return the lowest and the highest hospital's mean AUC of a model."""
    own = (run.own(name).get(number) for name in run.hospitals)
    aucs = [of.auc for of in own if of is not None and of.auc is not None]
    return (min(aucs), max(aucs)) if aucs else None
