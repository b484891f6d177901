"""The picture of a run: rounds, what each hospital does, how good the models are."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from common.findings import FINDINGS
from common.scores import rounded
from server.run.forecast import in_words
from server.run.live import HospitalLive, Live, Phase
from server.run.snapshot import HospitalSummary, Snapshot
from server.watch.drawing import bar, sparkline, table, text

WIDE = 110
"""Columns from which the table has more of them."""

RESERVED_LINES = 14
"""Lines of the picture that are neither hospitals nor findings."""

FEWEST_HOSPITALS = 5
"""Are shown however low the terminal is."""

PHASES: dict[Phase, str] = {
    "waiting": "waiting for hospitals",
    "hospitals": "the hospitals work",
    "sum": "summing the updates under masks",
    "average": "averaging",
    "save": "saving the model",
    "test": "scoring on the test shard",
    "closing": "the hospitals score the final model",
}

STYLES = {
    "waiting": "dim",
    "scoring": "",
    "training": "",
    "sending": "",
    "done": "green",
    "late": "yellow",
    "rejected": "red",
    "gone": "red",
}
"""By what a hospital does; each is said in words too."""

HURRY = ("gone", "rejected", "late", "training", "scoring", "waiting", "sending", "done")
"""Who is shown first if there is no room for all: who holds the round up."""

STATES = {"running": "green", "waiting": "yellow", "finished": "green"}
"""Styles; all others are red."""


class Picture:
    """Draws a run as wide as the terminal is.

    Args:
        snapshot: The run.
        findings: Whether each finding has its curve.
        notice: A line below the heading, such as that the server does not answer.
    """

    def __init__(self, snapshot: Snapshot, findings: bool = False, notice: str = "") -> None:
        self._run = snapshot
        self._findings = findings
        self._notice = notice

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts from top to bottom."""
        width, plain = options.max_width, options.ascii_only
        reserved = RESERVED_LINES + (len(FINDINGS) if self._findings else 0)
        room = max(FEWEST_HOSPITALS, console.height - reserved)
        yield from self._heading(width, plain)
        if self._notice:
            yield text(self._notice, "yellow")
        if self._run.hospitals or self._run.live:
            yield ""
            yield self._hospitals(width, plain, room)
            yield from self._troubles()
        if self._run.history:
            yield ""
            yield from self._curves(width, plain)

    def _heading(self, width: int, plain: bool) -> Iterator[RenderableType]:
        run = self._run
        yield Text.assemble(
            text(f"run {run.run}", "bold"),
            text(f", {run.architecture}, {run.strategy}: "),
            text(run.state, f"bold {STATES.get(run.state, 'red')}"),
            text(f" ({run.reason})" if run.reason else ""),
        )
        done, size = len(run.history), max(10, min(40, width - 50))
        yield Text.assemble(
            text(f"{done} of {run.rounds} rounds "), bar(_share(done, run.rounds), size, plain)
        )
        if run.live is not None:
            yield text(_now(run, run.live))

    def _hospitals(self, width: int, plain: bool, room: int) -> RenderableType:
        run, wide = self._run, width >= WIDE
        live = run.live.hospitals if run.live else {}
        names = sorted({*run.hospitals, *live})
        shown, rest = names, ""
        if len(names) > room:
            by_hurry = sorted(names, key=lambda name: (_hurry(live.get(name)), name))
            shown = by_hurry[: room - 1]
            rest = f"and {len(names) - len(shown)} more hospitals"
        headings = [
            "hospital",
            *(["does", ">for"] if run.live else []),
            ">AUC (films)",
            ">images/s",
        ]
        if wide:
            headings += [">loss", ">trained on", ">last round"]
        rows = [
            [
                text(name),
                *(_doing(live.get(name), run.time, 20 if wide else 8, plain) if run.live else []),
                *_numbers(run.hospitals.get(name), wide),
            ]
            for name in shown
        ]
        made = table(headings, rows)
        return Group(made, text(rest, "dim")) if rest else made

    def _troubles(self) -> Iterator[RenderableType]:
        """Yield why hospitals are late, rejected or gone; of a run that is over, were."""
        live = self._run.live.hospitals if self._run.live else {}
        if self._run.live is None:
            for name, why in self._run.left_out.items():
                yield text(f"{name}: {why}", "red")
        for name, hospital in sorted(live.items()):
            if hospital.reason:
                since = f"since {hospital.since.astimezone():%H:%M:%S}"
                words = f"{name} {hospital.doing} {since}: {hospital.reason}"
                yield text(words, STYLES[hospital.doing])

    def _curves(self, width: int, plain: bool) -> Iterator[RenderableType]:
        run, size = self._run, max(10, min(60, width - 45))
        pooled = any(model.pooled is not None for model in run.models)
        aucs = [model.pooled if pooled else model.mean for model in run.models]
        name = "pooled AUC" if pooled else "mean AUC"
        best = f"best: round {run.best_round}" if run.best_round is not None else ""
        lines = [_curve(name, aucs, size, plain, 3, best)]
        if any(each.test_auc is not None for each in run.history):
            test = [each.test_auc for each in run.history]
            lines.append(_curve("test AUC", test, size, plain, 3, ""))
        lines.append(_curve("loss", [each.loss for each in run.history], size, plain, 3, ""))
        if self._findings:
            for finding in FINDINGS:
                series = [model.by_finding.get(finding) for model in run.models]
                lines.append(_curve(finding, series, size, plain, 3, ""))
        yield table(["", ">first", "by round", ">last", ""], lines)
        yield ""
        yield text(_throughput(run))


def _share(done: int, rounds: int) -> float:
    return min(1.0, done / rounds) if rounds else 1.0


def _now(run: Snapshot, live: Live) -> str:
    """Return what the run does now, since when, and how long it will take."""
    if not live.round:
        what = PHASES[live.phase]
    elif live.phase == "closing":
        what = PHASES["closing"]
    else:
        again = f", attempt {live.attempt}" if live.attempt > 1 else ""
        what = f"round {live.round}{again}: {PHASES[live.phase]}"
    if live.phase == "waiting":
        there = sum(hospital.doing != "gone" for hospital in live.hospitals.values())
        what += f" ({there} of {live.needed} are there)"
    words = f"{what}, for {_age(live.since, run.time)}"
    left = time_left(run)
    return words if left is None else f"{words}; about {in_words(left)} left"


def time_left(run: Snapshot) -> float | None:
    """Return the estimate for the rounds to come, less what the present one has taken."""
    if run.seconds_left is None or run.live is None:
        return None
    gone = (run.time - run.live.started).total_seconds() if run.live.round else 0.0
    return max(0.0, run.seconds_left - gone)


def _age(since: datetime, now: datetime) -> str:
    return in_words(max(0.0, (now - since).total_seconds()))


def _hurry(hospital: HospitalLive | None) -> int:
    return HURRY.index(hospital.doing) if hospital else len(HURRY)


def _doing(
    hospital: HospitalLive | None, now: datetime, width: int, plain: bool
) -> list[RenderableType]:
    """Return the cells with what a hospital does, and for how long."""
    if hospital is None:
        return [text("-"), text("-")]
    words = text(f"{hospital.doing:<8}", STYLES[hospital.doing])
    if hospital.share is not None:
        words = words + Text(" ") + bar(hospital.share, width, plain)
        words = words + text(f" {hospital.share:>4.0%}")
    return [words, text(_age(hospital.since, now))]


def _numbers(last: HospitalSummary | None, wide: bool) -> list[RenderableType]:
    """Return the cells with a hospital's numbers of the last round in which it counted."""
    if last is None:
        return [text("-")] * (5 if wide else 2)
    auc = f"{rounded(last.auc)} ({last.validation_images})"
    cells = [auc, rounded(last.images_per_second, 1)]
    if wide:
        behind = f", {last.stale} behind" if last.stale else ""
        cells += [rounded(last.loss), rounded(last.examples, 0), f"{last.round}{behind}"]
    return [text(cell) for cell in cells]


def _curve(
    name: str, values: Sequence[float | None], width: int, plain: bool, digits: int, note: str
) -> list[RenderableType]:
    known = [value for value in values if value is not None]
    ends = (known[0], known[-1]) if known else (None, None)
    return [
        text(name.replace("_", " ")),
        text(rounded(ends[0], digits)),
        sparkline(values, width, plain),
        text(rounded(ends[1], digits)),
        text(note),
    ]


def _throughput(run: Snapshot) -> str:
    """Return images a second, traffic and seconds of the last round, and the traffic of all."""
    last = run.history[-1]
    total = sum(each.bytes.received + each.bytes.sent for each in run.history)
    rate = f"{last.images / last.seconds:.0f} images/s, " if last.seconds else ""
    traffic = f"{size_of(last.bytes.received + last.bytes.sent)} of weights"
    return f"last round: {in_words(last.seconds)}, {rate}{traffic}; {size_of(total)} in all"


def size_of(count: int) -> str:
    """Return a number of bytes for people."""
    value = count / 1e6
    return f"{value:.1f} MB" if value < 1000 else f"{value / 1000:.1f} GB"
