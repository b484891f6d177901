"""Who took part, and what went wrong."""

import math
from collections import Counter
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from common.document import Table
from server.report.look import BLUE, MUTED, RED, Look
from server.report.painting import UNDEFINED, height_of, table, upwards
from server.report.plot import Panel, Plot
from server.report.run import Run
from server.run.console import in_rounds
from server.run.events import (
    Changed,
    Excluded,
    Lost,
    OwnStateLost,
    Refused,
    Repeated,
    ReplyRejected,
    StoppedEarly,
    Unusual,
)

COUNTED = Look(BLUE, "", "o")
REJECTED = Look(RED, "", "D")
MISSING = Look(MUTED, "", "v")


def attendance(run: Run) -> Plot:
    """Return in which rounds each hospital counted, was rejected or did not reply."""
    lost = {(e.round, e.site): e.reason for e in run.events if isinstance(e, Lost)}

    names = {e.site for e in run.events if isinstance(e, Excluded)}
    # A hospital is excluded after a bad reply.
    excluded = {name: r.round for r in run.rounds for name in r.rejected if name in names}

    def state(number: int, name: str) -> tuple[str, Look | None]:
        record = run.rounds[number]
        if name in record.hospitals:
            stale = record.hospitals[name].stale
            return (f"counted, {in_rounds(stale)} behind" if stale else "counted"), COUNTED
        if name in record.rejected:
            return f"rejected: {record.rejected[name]}", REJECTED
        if name in record.missing:
            gone = "excluded" if record.round > excluded.get(name, math.inf) else "not connected"
            why = lost.get((record.round, name), gone)
            return f"missing: {why}", MISSING
        if name in record.busy:
            return "went on with an earlier model", None
        if record.drawn is not None:
            return "not drawn", None
        return UNDEFINED, None

    states = [[state(n, name) for name in run.hospitals] for n in range(len(run.rounds))]

    def paint(axes: Axes) -> None:
        for look in (COUNTED, REJECTED, MISSING):
            spots = [
                (record.round, row)
                for record, of_round in zip(run.rounds, states, strict=True)
                for row, (_, found) in enumerate(of_round)
                if found is look
            ]
            if spots:
                size = 4 if len(run.rounds) <= 60 else 2
                axes.plot(*zip(*spots, strict=True), **{**look.line, "markersize": size})
        upwards(axes, run.hospitals)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlim(0.4, run.last.round + 0.6)

    rows = (
        [str(record.round), *(text for text, _ in of_round)]
        for record, of_round in zip(run.rounds, states, strict=True)
    )
    return Plot(
        "attendance",
        "Rounds of each hospital",
        "A mark for each round and hospital; none: it was not asked, went on "
        "with an earlier round's model, or had not joined yet.",
        [Panel("", paint)],
        table(["Round", *run.hospitals], rows, texts=True),
        [
            ("its update counted", COUNTED),
            ("rejected", REJECTED),
            ("late, cut off, not connected or excluded", MISSING),
        ],
        x="round",
        size=(5.2, height_of(len(run.hospitals))),
    )


def incidents(run: Run) -> Table:
    """Return what went wrong and what was changed, the same things of a hospital in one row."""
    found: Counter[tuple[str, str, str]] = Counter()
    rounds: dict[tuple[str, str, str], list[int]] = {}
    key: tuple[str, str, str]
    for event in run.events:
        match event:
            case Lost() | ReplyRejected() | Unusual() | OwnStateLost():
                key = (event.site, event.event, event.reason)
                rounds.setdefault(key, []).append(event.round)
            case Refused():
                key = (event.site, event.event, event.reason)
                found[key] += event.times - 1  # a line stands for all since the one before
            case Excluded():
                key = (event.site, event.event, event.reason)
            case Repeated():
                key = ("all", "repeated", "fewer good replies than the round needs")
                rounds.setdefault(key, []).append(event.round)
            case StoppedEarly():
                key = ("all", "stopped early", event.reason)
                rounds.setdefault(key, []).append(event.round)
            case Changed():
                key = ("all", "changed", f"{event.option} from {event.old:g} to {event.new:g}")
                rounds.setdefault(key, []).append(event.round + 1)
            case _:
                continue
        found[key] += 1
    rows = (
        [site, what, str(times), spans(rounds.get((site, what, why), [])), why]
        for (site, what, why), times in sorted(found.items())
    )
    return table(["Hospital", "What", "Times", "Rounds", "Why"], rows, texts=True)


def spans(numbers: Sequence[int]) -> str:
    """Return rounds in few words: 1 to 3, 7."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in spans) or UNDEFINED
