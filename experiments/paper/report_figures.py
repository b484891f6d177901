"""The report's drawings, as SVG that needs nothing from elsewhere."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from common.document import Figure
from common.drawing import styled, svg_of
from experiments.paper.cells import FirstModel, Method
from experiments.paper.report_curves import by_first_model, mean_curve, random_end
from experiments.paper.report_input import (
    METHOD_TITLES,
    TITLES,
    Curve,
    Pretraining,
    StrategyTable,
)

WIDTH = 5.0
"""In inches: 11 points stay above 9 on the narrowest screen, see ``min-width`` in the page."""

COLOURS: dict[FirstModel, str] = {
    "random": "#d55e00",
    "imagenet": "#e69f00",
    "rotation": "#56b4e9",
    "simclr": "#009e73",
    "byol": "#cc79a7",
    "mocov2": "#0072b2",
    "statistics": "#000000",
    "scrambled": "#7f7f7f",
}
"""After Okabe and Ito: colour-blind readers can tell them apart."""

LINES: dict[FirstModel, str] = {
    "random": "--",
    "imagenet": "-.",
    "rotation": ":",
    "simclr": "-.",
    "byol": "--",
    "mocov2": "-",
    "statistics": ":",
    "scrambled": ":",
}
"""A second sign besides the colour."""

METHOD_LOOKS: dict[Method, tuple[str, str]] = {
    "fedavg": ("#000000", "-"),
    "fedprox": ("#0072b2", "-"),
    "fednova": ("#009e73", "-"),
    "scaffold": ("#d55e00", "-"),
    "feddyn": ("#cc79a7", "-"),
    "fedavgm": ("#0072b2", "--"),
    "fedadagrad": ("#009e73", "--"),
    "fedadam": ("#d55e00", "--"),
    "fedyogi": ("#cc79a7", "--"),
    "median": ("#7f7f7f", ":"),
}
"""Colour and line of a method; dashed: the server takes a step of its own."""

Estimate = tuple[str, float, float, float, bool]
"""Name, value, low, high, and whether it counts for the primary mean."""


def figure6(curves: Sequence[Curve]) -> Figure:
    """Return the AUC by round: a thin line for each seed, a thick one for their mean."""

    def paint(panels: list[Axes]) -> None:
        for axes, field, title in (
            (panels[0], "test_auc", "mean AUC, test films"),
            (panels[1], "validation_auc", "mean AUC, hospitals'\nvalidation"),
        ):
            for name, group in by_first_model(curves).items():
                look = {"color": COLOURS[name], "linestyle": LINES[name]}
                for curve in group:
                    _line(axes, curve.points, "round", field, alpha=0.4, linewidth=0.9, **look)
                label = f"{TITLES[name]}, {len(group)} {'seed' if len(group) == 1 else 'seeds'}"
                mean = mean_curve(group)
                _line(axes, mean, "round", field, linewidth=2.6, label=label, **look)
            axes.set_ylabel(title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        end = random_end(curves)
        if end is not None:
            panels[0].axhline(end, color="#555555", linewidth=0.8)
        panels[1].set_xlabel("rounds done")

    caption = "Mean AUC by round. Thin: one seed. Thick: mean. Grey: where random weights end."
    return draw("figure6", caption, 2, 5.6, paint)


def forest(estimates: Sequence[Estimate]) -> Figure:
    """Return the differences MoCo-v2 minus random with their intervals, from top to bottom."""

    def paint(panels: list[Axes]) -> None:
        axes = panels[0]
        for place, (_, value, low, high, primary) in enumerate(estimates):
            axes.plot([low, high], [place, place], color=COLOURS["mocov2"], linewidth=1.8)
            fill = COLOURS["mocov2"] if primary else "white"
            axes.plot(value, place, "o", color=COLOURS["mocov2"], markerfacecolor=fill)
        axes.axvline(0, color="#333333", linewidth=1)
        axes.set_yticks(range(len(estimates)), [name for name, *_ in estimates])
        axes.invert_yaxis()
        axes.set_xlabel("AUC: MoCo-v2 minus random")

    caption = (
        "MoCo-v2 minus random by finding, with 95% intervals. Right of 0 favours MoCo-v2. "
        "Hollow: too few positive test films, not in the mean. Findings without an interval are "
        "not drawn."
    )
    return draw("forest", caption, 1, 1 + 0.32 * len(estimates), paint)


def strategies(tables: Sequence[StrategyTable]) -> Figure:
    """Return the mean test AUC by round of each method, one panel a first model.

    A mean is over the seeds that all methods of the panel have: seeds differ more than methods do.
    """

    def paint(panels: list[Axes]) -> None:
        for axes, table in zip(panels, tables, strict=True):
            seeds = [{curve.seed for curve in row.curves} for row in table.rows if row.curves]
            shared = set.intersection(*seeds) if seeds else set()
            for row in table.rows:
                colour, line = METHOD_LOOKS[row.method]
                look = {"color": colour, "linestyle": line, "label": METHOD_TITLES[row.method]}
                width = 2.6 if row.method == "fedavg" else 1.6
                points = mean_curve([curve for curve in row.curves if curve.seed in shared])
                _line(axes, points, "round", "test_auc", linewidth=width, **look)
            axes.set_ylabel(f"mean AUC, test films\n{TITLES[table.first_model]}")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[-1].set_xlabel("rounds done")

    caption = (
        "Mean AUC by round, Non-IID, mean over the seeds that all methods drawn have. Dashed: the "
        "server takes a step of its own."
    )
    return draw("strategies", caption, len(tables), 1.5 + 2.6 * len(tables), paint)


def pretraining(runs: Sequence[Pretraining]) -> Figure:
    """Return loss, spread and effective rank by epoch, one line a method."""

    def paint(panels: list[Axes]) -> None:
        for axes, field, title in zip(
            panels, ("loss", "spread", "rank"), ("loss", "spread", "effective rank"), strict=True
        ):
            for run in runs:
                look = {"color": COLOURS[run.method], "linestyle": LINES[run.method]}
                label = TITLES[run.method]
                _line(axes, run.epochs, "epoch", field, linewidth=2, label=label, **look)
            axes.set_ylabel(title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[1].set_ylim(bottom=0)
        panels[2].set_ylim(bottom=0)
        panels[-1].set_xlabel("epoch")

    caption = (
        "Pretraining by epoch: loss (not comparable between methods), spread of embeddings over "
        "the sphere (near 1 is healthy, 0 is collapse) and their effective rank."
    )
    return draw("pretraining", caption, 3, 7, paint)


def draw(
    name: str, caption: str, panels: int, height: float, paint: Callable[[list[Axes]], None]
) -> Figure:
    """Return a drawing of panels one above the other, under the first one's legend.

    The same input gives the same bytes.

    Args:
        name: The drawing's name, unique within a document.
        caption: What is to be seen.
        panels: Number of panels.
        height: In inches.
        paint: Function that draws into the panels.
    """
    with styled(name):
        canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
        axes = list(canvas.subplots(panels, squeeze=False)[:, 0])
        paint(axes)
        handles, labels = axes[0].get_legend_handles_labels()
        if handles:  # above the panels, where it hides no line
            canvas.legend(handles, labels, loc="outside upper left", ncols=2)
        return Figure(name, caption, svg_of(canvas))


def _line(axes: Axes, points: Sequence[object], x: str, y: str, **look: Any) -> None:
    """Draw one field of the points over another, where both are defined."""
    pairs = [(getattr(point, x), getattr(point, y)) for point in points]
    known = [pair for pair in pairs if pair[1] is not None]
    if known:
        marker = "o" if len(known) == 1 else ""
        axes.plot(*zip(*known, strict=True), marker=marker, **look)
