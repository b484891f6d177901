"""What the demo shows at its end: two curves, in the terminal and on a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from common.document import Block, Cell, Figure, Section, Table
from common.scores import rounded
from experiments.paper import report
from experiments.paper.cells import FirstModel
from experiments.paper.report_figures import COLOURS, LINES, draw
from server.run.events import InitialModel, read_events
from server.run.records import read_rounds

BLOCKS = "▁▂▃▄▅▆▇█"
CAVEAT = (
    "The films are drawn and the seed is one: this shows how FedCXR works, not what to expect of "
    "real films."
)


Curve = Sequence[float | None]
"""A run's mean AUC on the test films: of the first model, then of the model after each round."""


def read_curve(run: Path) -> Curve:
    """Return a run's curve.

    Raises:
        BadInput: A file of the run is damaged.
    """
    initial = next(event for event in read_events(run) if isinstance(event, InitialModel))
    tests = (record.test for record in read_rounds(run))
    return [initial.test.auc, *(test.auc if test else None for test in tests)]


def table(pretrained: Curve, random: Curve) -> str:
    """Return a table of both curves for the terminal."""
    lines = ["  round   pretrained   random weights"]
    row = "  {:>5}   {:>10}   {:>14}"
    lines += [row.format(*texts) for texts in _rows(pretrained, random)]
    known = [auc for auc in (*pretrained, *random) if auc is not None]
    for name, curve in (("pretrained", pretrained), ("random weights", random)):
        lines.append(f"  {name:<14}   {sparkline(curve, min(known), max(known))}")
    return "\n".join(lines)


def sparkline(values: Sequence[float | None], low: float, high: float) -> str:
    """Return a block for each value between ``low`` and ``high``; a blank for what is undefined."""
    span = (high - low) or 1.0
    steps = len(BLOCKS) - 1
    return "".join(
        " " if value is None else BLOCKS[round((value - low) / span * steps)] for value in values
    )


def verdict(pretrained: Curve, random: Curve) -> str:
    """Return whether pretraining gave a head start.

    It did if it reaches what random weights end at in fewer rounds.
    """
    rounds = len(random) - 1
    end, own = random[-1], pretrained[-1]
    if end is None or own is None:
        return "Too few test films for an AUC: whether pretraining helps is not known."
    reached = next(i for i, auc in enumerate((*pretrained, end)) if auc is not None and auc >= end)
    ends = f"test AUC after {rounds} rounds: {rounded(own)} against {rounded(end)}"
    if reached >= rounds:
        return f"Pretraining saved no round here: {ends} from random weights."
    return (
        f"Pretraining gave a head start: the model of round {reached} is as good as that of round "
        f"{rounds} from random weights ({ends})."
    )


def page(pretrained: Curve, random: Curve, setting: str) -> str:
    """Return a page on both runs that needs nothing from elsewhere.

    Args:
        pretrained: From the checkpoint.
        random: From random weights.
        setting: How the models were made, in a sentence.
    """
    header = [Cell("Round"), Cell("Pretrained"), Cell("Random weights")]
    rows = [[Cell(text) for text in row] for row in _rows(pretrained, random)]
    blocks: list[Block] = [
        verdict(pretrained, random),
        _figure(pretrained, random),
        Table(header, rows),
        setting,
        CAVEAT,
    ]
    return report.page_of("FedCXR: a head start by pretraining?", [Section("Two runs", blocks)])


def _rows(pretrained: Curve, random: Curve) -> list[tuple[str, str, str]]:
    return [
        (str(i) if i else "start", rounded(own), rounded(other))
        for i, (own, other) in enumerate(zip(pretrained, random, strict=True))
    ]


def _figure(pretrained: Curve, random: Curve) -> Figure:
    def paint(panels: list[Axes]) -> None:
        names: tuple[FirstModel, ...] = ("simclr", "random")
        for name, curve in zip(names, (pretrained, random), strict=True):
            known = [(i, auc) for i, auc in enumerate(curve) if auc is not None]
            look: dict[str, Any] = {"color": COLOURS[name], "linestyle": LINES[name]}
            label = "random weights" if name == "random" else "pretrained"
            if known:
                panels[0].plot(*zip(*known, strict=True), marker="o", label=label, **look)
        panels[0].set_xlabel("rounds done")
        panels[0].set_ylabel("mean AUC, test films")
        panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))

    return draw("demo", "Mean AUC of the test films by round; 0.5 is chance.", 1, 3.6, paint)
