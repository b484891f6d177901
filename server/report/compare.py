"""Several runs side by side: their curves, their differences, and what differs in how they ran."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from matplotlib.axes import Axes

from common.differences import Estimate
from common.document import Items, Table
from common.findings import FINDINGS
from server.report.curves import SMALL_SIZE
from server.report.facts import facts_of, options_of
from server.report.look import INK, LOOKS, MUTED, Look
from server.report.painting import (
    UNDEFINED,
    limits_of,
    line,
    named,
    numbers,
    over_rounds,
    short,
    table,
    upwards,
)
from server.report.pairs import (
    hospital_pairs,
    mean_of_pairs,
    mean_pooled_difference,
    pooled_differences,
    test_differences,
)
from server.report.plot import Panel, Plot
from server.report.run import Run

Curve = Mapping[int, float | None]

MEAN = "Mean"


def side_by_side(runs: Sequence[Run]) -> Table:
    """Return the runs in short, a column for each."""
    facts = [facts_of(run) for run in runs]
    names = [name for name in dict.fromkeys(name for of in facts for name in of) if name != "Name"]
    rows = ([name, *(of.get(name, UNDEFINED) for of in facts)] for name in names)
    return table(["", *(run.name for run in runs)], rows, texts=True)


def what_differs(runs: Sequence[Run]) -> Table:
    """Return the options that are not the same in all runs."""
    configs = [options_of(run) for run in runs]
    names = list(dict.fromkeys(name for config in configs for name in config))
    rows = (
        [name, *values]
        for name in names
        if len({*(values := [str(config.get(name, UNDEFINED)) for config in configs])}) > 1
    )
    return table(["Option", *(run.name for run in runs)], rows, texts=True)


def _looks(runs: Sequence[Run]) -> list[Look]:
    return [LOOKS[i % len(LOOKS)] for i in range(len(runs))]


def curves(runs: Sequence[Run]) -> Plot:
    """Return the runs' mean AUC by round: test, pooled, and the hospitals' mean."""
    kinds: dict[str, Callable[[Run], Curve]] = {
        "Test films": lambda run: {n: scores.auc for n, scores in run.tests.items()},
        "All validation films": lambda run: {n: of.auc for n, of in run.pooled.items()},
        "Mean of hospitals": lambda run: {n: of.auc for n, of in run.validations.items()},
    }
    found = {kind: [of(run) for run in runs] for kind, of in kinds.items()}
    found = {kind: of for kind, of in found.items() if any(of)}
    most = max(run.last.round for run in runs)

    def paint(kind: str) -> Callable[[Axes], None]:
        def inside(axes: Axes) -> None:
            for points, look in zip(found[kind], _looks(runs), strict=True):
                line(axes, points, look)
            over_rounds(axes, most)

        return inside

    header = ["Rounds done", *(f"{run.name}, {kind.lower()}" for kind in found for run in runs)]
    rows = (
        [str(n), *numbers(*(points.get(n) for of in found.values() for points in of))]
        for n in range(most + 1)
    )
    return Plot(
        "runs-auc",
        "Mean AUC of each run by round",
        "Of the same films only where nothing above says otherwise.",
        [Panel(kind, paint(kind)) for kind in found],
        table(header, rows),
        [(run.name, look) for run, look in zip(runs, _looks(runs), strict=True)],
        x="rounds done",
        y="mean AUC",
        size=(2.6, 2.0),
        limits=limits_of(points for of in found.values() for points in of),
    )


def findings(runs: Sequence[Run]) -> Plot:
    """Return each finding's AUC by round, of all runs, on the best films that all have."""
    what, of = _best_films(runs)
    most = max(run.last.round for run in runs)

    def paint(finding: str) -> Callable[[Axes], None]:
        def inside(axes: Axes) -> None:
            for run, look in zip(runs, _looks(runs), strict=True):
                line(axes, of(run, finding), Look(look.colour, look.dash, "", 1.4))
            over_rounds(axes, most)

        return inside

    rows = (
        [named(finding), str(n), *numbers(*(of(run, finding).get(n) for run in runs))]
        for finding in FINDINGS
        for n in range(most + 1)
    )
    return Plot(
        "runs-findings",
        "AUC of each finding by round, of each run",
        f"On {what}.",
        [Panel(named(finding), paint(finding)) for finding in FINDINGS],
        table(["Finding", "Rounds done", *(run.name for run in runs)], rows),
        [(run.name, look) for run, look in zip(runs, _looks(runs), strict=True)],
        x="rounds done",
        y="AUC",
        size=SMALL_SIZE,
        limits=limits_of(of(run, finding) for finding in FINDINGS for run in runs),
    )


def _best_films(runs: Sequence[Run]) -> tuple[str, Callable[[Run, str], Curve]]:
    if all(run.tests for run in runs):
        return "the test films", lambda run, finding: {
            n: scores.auc_by_finding[finding] for n, scores in run.tests.items()
        }
    if all(run.pooled for run in runs):
        return "all hospitals' validation films", lambda run, finding: {
            n: of.by_finding[finding].auc for n, of in run.pooled.items()
        }
    return "the hospitals' validation films, mean of the hospitals", lambda run, finding: {
        n: of.auc_by_finding.get(finding) for n, of in run.validations.items()
    }


def finding_differences(runs: Sequence[Run]) -> Plot:
    """Return how the last models' AUCs differ from the first run's, by finding."""
    first, others = runs[0], runs[1:]
    tests = [test_differences(first, run) for run in others]
    pooled = [pooled_differences(first, run) for run in others]
    for run, test, of in zip(others, tests, pooled, strict=True):
        if test:
            test[MEAN] = sum(test.values()) / len(test)
        if (mean := mean_pooled_difference(first, run)) is not None:
            of[MEAN] = mean
    names = [*FINDINGS, MEAN]

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=":")
        for i, (test, of, look) in enumerate(zip(tests, pooled, _looks(runs)[1:], strict=True)):
            shift = 0.6 * ((i + 0.5) / len(others) - 0.5)
            for row, name in enumerate(names):
                if name in test:
                    axes.plot(test[name], row + shift - 0.12, "|", color=look.colour, ms=9, mew=2)
                if name in of:
                    _estimate(axes, of[name], row + shift, look)
        upwards(axes, [named(name) for name in names])

    rows = (
        [named(name), run.name, _signed(test.get(name)), *_cells(of.get(name))]
        for name in names
        for run, test, of in zip(others, tests, pooled, strict=True)
    )
    keys = [
        (f"{run.name}, validation films of all hospitals", look)
        for run, look in zip(others, _looks(runs)[1:], strict=True)
    ]
    if any(tests):
        keys.append(("test films", Look(INK, "", "|")))
    return Plot(
        "runs-differences",
        f"Difference to {first.name}, last models",
        "Right of 0: better than it. On the test films no interval can be had without each film's "
        "score. The intervals of 95 % on the validation films take the two models' films as "
        "different ones: on the same films they are as a rule too wide. They are not adjusted for "
        "the number of findings.",
        [Panel("", paint)],
        table(["Finding", "Run", "Test", "Pooled", "Low", "High"], rows),
        keys,
        x=f"AUC minus that of {short(first.name)}",
        size=(5.2, 5.4),
    )


def hospital_differences(runs: Sequence[Run]) -> Plot:
    """Return how the hospitals' own mean AUCs differ from those in the first run."""
    first, others = runs[0], runs[1:]
    pairs = [hospital_pairs(first, run) for run in others]
    means = [mean_of_pairs(of) for of in pairs]
    names = sorted(set().union(*pairs))

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=":")
        for i, (of, mean, look) in enumerate(zip(pairs, means, _looks(runs)[1:], strict=True)):
            shift = 0.6 * ((i + 0.5) / len(others) - 0.5)
            for row, name in enumerate(names):
                if name in of:
                    difference = Estimate(of[name].other - of[name].first)
                    _estimate(axes, difference, row + shift, look)
            if mean is not None:
                _estimate(axes, mean, len(names) + shift, look)
        upwards(axes, [*names, MEAN])

    def rows() -> Iterator[list[str]]:
        for run, of, mean in zip(others, pairs, means, strict=True):
            for name, pair in of.items():
                yield [
                    name,
                    run.name,
                    *numbers(pair.first, pair.other),
                    *_cells(Estimate(pair.other - pair.first)),
                    str(pair.findings),
                    " and ".join(str(films) for films in dict.fromkeys(pair.films)),
                ]
            yield [MEAN, run.name, UNDEFINED, UNDEFINED, *_cells(mean), UNDEFINED, UNDEFINED]

    header = f"Hospital|Run|{first.name}|This run|Difference|Low|High|Findings|Films"
    return Plot(
        "runs-hospitals",
        f"Difference to {first.name} at each hospital",
        "Of each hospital's own mean AUC over the findings that both runs have there. The mean's "
        "interval of 95 % (Student's, from three hospitals on) says how the difference varies "
        "between hospitals, all counting the same; single ones have none.",
        [Panel("", paint)],
        table(header.split("|"), rows()),
        [(run.name, look) for run, look in zip(others, _looks(runs)[1:], strict=True)],
        x=f"own mean AUC minus that in {short(first.name)}",
        size=(5.2, 1.3 + 0.28 * (len(names) + 1)),
    )


def in_words(runs: Sequence[Run]) -> Items:
    """Return what the differences come to, a sentence for each kind of films and run."""
    first, found = runs[0], []
    for run in runs[1:]:
        if test := test_differences(first, run):
            better = sum(value > 0 for value in test.values())
            mean = _signed(sum(test.values()) / len(test))
            found.append(
                f"{run.name}, test films: better than {first.name} in {better} of {len(test)} "
                f"findings, by {mean} in the mean; how surely is not known without each film's "
                "score."
            )
        kinds = {
            "validation films of all hospitals": mean_pooled_difference(first, run),
            "mean of the hospitals": mean_of_pairs(hospital_pairs(first, run)),
        }
        for kind, of in kinds.items():
            if of is not None:
                found.append(f"{run.name}, {kind}: {_signed(of.value)}{_surely(of)}.")
    return Items(found or ["The runs have no numbers in common."])


def _surely(of: Estimate) -> str:
    if of.low is None or of.high is None:
        return ", without an interval"
    between = f", between {_signed(of.low)} and {_signed(of.high)}"
    return between if of.low > 0 or of.high < 0 else f"{between}: it may be no difference at all"


def _estimate(axes: Axes, of: Estimate, height: float, look: Look) -> None:
    if of.low is not None and of.high is not None:
        axes.plot([of.low, of.high], [height, height], color=look.colour, linewidth=1.5)
    axes.plot(of.value, height, look.marker, color=look.colour, markersize=4.5)


def _cells(of: Estimate | None) -> list[str]:
    return [_signed(value) for value in of or (None, None, None)]


def _signed(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:+.3f}"
