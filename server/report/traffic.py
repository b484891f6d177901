"""Where the time and the bytes went."""

from statistics import mean

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from server.report.look import BLUE, GOLD, GREEN, MUTED, RED, SKY, Look
from server.report.painting import height_of, table, upwards
from server.report.plot import Panel, Plot
from server.report.run import Run
from server.run.records import HospitalRecord

PHASES = {"receive": SKY, "wait": MUTED, "evaluate": GREEN, "train": BLUE, "send": GOLD}
STAGES = {"hospitals": BLUE, "average": RED, "save": GOLD, "test": GREEN}

LABELS = {
    "hospitals": "hospitals train and answer",
    "average": "updates are combined",
    "save": "the model is saved",
    "test": "the test films are scored",
    "receive": "the model travels to it, and the rest",
    "wait": "waits for a turn on a shared machine",
    "evaluate": "scores the model",
    "train": "trains",
    "send": "its weights travel to the server",
}


def server_time(run: Run) -> Plot:
    """Return where each round's time went at the server."""
    seconds = {stage: [getattr(record.seconds, stage) for record in run.rounds] for stage in STAGES}
    rounds = [record.round for record in run.rounds]

    def paint(axes: Axes) -> None:
        below = [0.0] * len(rounds)
        for stage, colour in STAGES.items():
            axes.bar(rounds, seconds[stage], 0.9, below, color=colour, linewidth=0)
            below = [a + b for a, b in zip(below, seconds[stage], strict=True)]
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))

    rows = (
        [
            str(record.round),
            *(f"{getattr(record.seconds, stage):.2f}" for stage in STAGES),
            f"{record.seconds.total:.2f}",
        ]
        for record in run.rounds
    )
    return Plot(
        "time",
        "Time of each round at the server",
        "Seconds; nearly all of it is the wait for the slowest hospital. A model is saved and "
        "scored beside the next round, which the total does not have. Pauses between rounds are "
        "not in it.",
        [Panel("", paint)],
        table(["Round", *(f"{s.capitalize()}, s" for s in STAGES), "Total, s"], rows),
        [(LABELS[stage], Look(colour, filled=True)) for stage, colour in STAGES.items()],
        x="round",
        y="seconds",
    )


def hospital_time(run: Run) -> Plot:
    """Return where the hospitals' time went, the mean of their rounds."""
    parts = _parts(run)
    seconds = {
        phase: [mean(getattr(part.seconds, phase) for part in of) if of else 0.0 for of in parts]
        for phase in PHASES
    }

    def paint(axes: Axes) -> None:
        left = [0.0] * len(parts)
        for phase, colour in PHASES.items():
            axes.barh(range(len(parts)), seconds[phase], 0.75, left, color=colour, linewidth=0)
            left = [a + b for a, b in zip(left, seconds[phase], strict=True)]
        upwards(axes, run.hospitals)

    rows = (
        [name, str(len(of)), *(f"{seconds[phase][row]:.2f}" for phase in PHASES)]
        for row, (name, of) in enumerate(zip(run.hospitals, parts, strict=True))
    )
    return Plot(
        "hospital-time",
        "Time of a round at each hospital",
        "Seconds, mean of the rounds in which it counted.",
        [Panel("", paint)],
        table(["Hospital", "Rounds", *(f"{phase.capitalize()}, s" for phase in PHASES)], rows),
        [(LABELS[phase], Look(colour, filled=True)) for phase, colour in PHASES.items()],
        x="seconds",
        size=(5.2, height_of(len(parts))),
    )


def traffic(run: Run) -> Plot:
    """Return how many bytes of weights each hospital received and sent."""
    parts = _parts(run)
    received = [sum(part.bytes.received for part in of) / 1e6 for of in parts]
    sent = [sum(part.bytes.sent for part in of) / 1e6 for of in parts]

    def paint(axes: Axes) -> None:
        axes.barh(range(len(parts)), received, 0.75, color=SKY, linewidth=0)
        axes.barh(range(len(parts)), sent, 0.75, received, color=BLUE, linewidth=0)
        upwards(axes, run.hospitals)

    rows = [
        [name, f"{down:.1f}", f"{up:.1f}"]
        for name, down, up in zip(run.hospitals, received, sent, strict=True)
    ]
    rows.append(["All", f"{sum(received):.1f}", f"{sum(sent):.1f}"])
    return Plot(
        "traffic",
        "Traffic",
        "MB of weights in the rounds that counted; no image and no label ever travels.",
        [Panel("", paint)],
        table(["Hospital", "Received, MB", "Sent, MB"], rows),
        [("received", Look(SKY, filled=True)), ("sent", Look(BLUE, filled=True))],
        x="MB",
        size=(5.2, height_of(len(parts))),
    )


def _parts(run: Run) -> list[list[HospitalRecord]]:
    """Return the parts of each hospital that counted."""
    return [
        [record.hospitals[name] for record in run.rounds if name in record.hospitals]
        for name in run.hospitals
    ]
