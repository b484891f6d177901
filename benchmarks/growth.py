"""How cost grows: with hospitals, with the model and with a shard.

Each point is measured in processes of its own. Exponents are the slopes of least squares through
the logarithms: 1 is proportional, 0 does not grow.

    python -m benchmarks.growth [--quick]

It takes a quarter of an hour, 9 GB of memory for a hundred hospitals with a DenseNet-121, and 6 GB
of disk. It prints a table and draws benchmarks/growth.svg; ``--quick`` is a trial of small sizes,
which draws nothing.
"""

import multiprocessing
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from benchmarks.growth_films import costs_of, make_shard
from benchmarks.growth_weights import Cost, round_of
from benchmarks.server_memory import peak_of
from common.options import Architecture

SPAWN = multiprocessing.get_context("spawn")
PLOT = Path(__file__).with_suffix(".svg")

LONGEST_ROUND = 600.0
"""Seconds of a round beyond which one server is not enough."""

MOST_MEMORY = 16e9
"""Bytes beyond which it is not, either."""

T = TypeVar("T")


class Sizes(NamedTuple):
    """What is measured: hospitals by architecture, copies of DenseNet-121, films by their size."""

    hospitals: dict[Architecture, tuple[int, ...]]
    copies: tuple[int, ...]
    films: dict[int, tuple[int, ...]]


ALL_FILMS = (1000, 3000, 10_000, 30_000, 100_000)
FULL = Sizes(
    {"densenet-tiny": (10, 30, 100, 300, 1000), "densenet121": (10, 30, 100)},
    (1, 2, 4, 8, 14),
    {72: ALL_FILMS, 224: ALL_FILMS},
)
QUICK = Sizes({"densenet-tiny": (5, 20)}, (1, 2), {72: (500, 2000)})


class Series(NamedTuple):
    """How a cost grows.

    Attributes:
        name: Of what costs.
        unit: Of what grows.
        sizes: Of what grows, ascending.
        costs: At each size.
    """

    name: str
    unit: str
    sizes: Sequence[int]
    costs: Sequence[Cost]

    @property
    def seconds(self) -> list[float]:
        """At each size."""
        return [cost.seconds for cost in self.costs]

    @property
    def memory(self) -> list[float]:
        """At each size, in bytes."""
        return [float(cost.memory) for cost in self.costs]


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of the least-squares line through the logarithms."""
    slope, _ = np.polyfit(np.log(sizes), np.log(values), 1)
    return float(slope)


def size_at(sizes: Sequence[float], values: Sequence[float], limit: float) -> float:
    """Return the size at which a cost reaches a limit, on the line through the last two points."""
    slope = (values[-1] - values[-2]) / (sizes[-1] - sizes[-2])
    return sizes[-1] + (limit - values[-1]) / slope if slope > 0 else float("inf")


def measure(sizes: Sizes) -> list[Series]:
    """Return all that grows; each row of the table is printed as it is known."""
    found: list[Series] = []

    def add(name: str, unit: str, at: Sequence[int], costs: Sequence[Cost]) -> None:
        found.append(Series(name, unit, at, costs))
        print(row(found[-1]), flush=True)

    for architecture, counts in sizes.hospitals.items():
        peaks = [peak_of(count, architecture, 3) for count in counts]
        costs = [Cost(seconds, memory) for memory, seconds in peaks]
        add(f"round, {architecture}", "hospitals", counts, costs)
    rounds = [alone(round_of, copies) for copies in sizes.copies]
    add("round, 4 hospitals, no transport", "weights", *zip(*rounds, strict=True))
    for size, counts in sizes.films.items():
        by_work = [film_costs(films, size) for films in counts]
        for work in by_work[0]:
            add(f"{work}, {size} pixels", "films", counts, [costs[work] for costs in by_work])
    return found


def film_costs(films: int, size: int) -> dict[str, Cost]:
    """Return what a client's work with a shard of so many films costs."""
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "shard"
        make_shard(shard, films, size)
        return alone(costs_of, shard)


def alone(function: Callable[..., T], *arguments: object) -> T:
    """Return what a function returns in a process of its own."""
    with ProcessPoolExecutor(1, SPAWN) as pool:
        return pool.submit(function, *arguments).result()


def row(series: Series) -> str:
    """Return a row of the table."""
    spans = [f"{values[0]:.3g} to {values[-1]:.3g}" for values in _in_units(series)]
    slopes = [f"{exponent(series.sizes, values):.2f}" for values in _in_units(series)]
    at = f"{series.sizes[0]:,} to {series.sizes[-1]:,} {series.unit}"
    limits = [
        size_at(series.sizes, series.seconds, LONGEST_ROUND),
        size_at(series.sizes, series.memory, MOST_MEMORY),
    ]
    beyond = [f"{limit:,.0f}" if limit < 1e12 else "-" for limit in limits]
    cells = [series.name, at, spans[0], slopes[0], spans[1], slopes[1], *beyond]
    return f"| {' | '.join(cells)} |"


def _in_units(series: Series) -> tuple[list[float], list[float]]:
    return series.seconds, [value / 1e6 for value in series.memory]


def draw(found: Sequence[Series]) -> bytes:
    """Return the plot: seconds above, memory below, a column for each kind of size."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    from common.drawing import saved, styled

    units = list(dict.fromkeys(series.unit for series in found))
    with styled("growth"):
        figure = Figure(figsize=(4.2 * len(units), 9), layout="constrained")
        axes = figure.subplots(2, len(units), squeeze=False, sharex="col")
        for column, unit in enumerate(units):
            for series in (each for each in found if each.unit == unit):
                for panel, values in zip(axes[:, column], _in_units(series), strict=True):
                    slope = exponent(series.sizes, values)
                    label = f"{series.name}: exponent {slope:.2f}"
                    panel.loglog(series.sizes, values, marker="o", label=label)
            axes[1, column].set_xlabel(unit)
        axes[0, 0].set_ylabel("seconds")
        axes[1, 0].set_ylabel("memory, MB")
        for panel in axes.flat:
            for axis, steps in ((panel.xaxis, (1, 3)), (panel.yaxis, (1, 2, 5))):
                axis.set_major_locator(LogLocator(subs=steps))
                axis.set_minor_locator(NullLocator())
                axis.set_major_formatter(lambda value, _: _plain(value))
            panel.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
        return saved(figure, "svg")


def _plain(value: float) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value:,g}"


def main() -> None:
    """Measure, print the table and draw the plot."""
    quick = sys.argv[1:] == ["--quick"]
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}\n")
    print("| | | seconds | exponent | MB | exponent | 10 min at | 16 GB at |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    found = measure(QUICK if quick else FULL)
    if not quick:
        PLOT.write_bytes(draw(found))


if __name__ == "__main__":
    main()
