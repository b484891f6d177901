"""Counts of images with each finding, for several shards, as tables and as a figure.

Shares are of the images in which a finding is known.
The figure is the paper's figure 4: the share of each of the 14 classes at each hospital.
"""

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.findings import FINDINGS, NO_FINDING, UNKNOWN
from common.shard import Bytes

ABREAST = 6
"""Most columns of a table, to fit a terminal."""

COLOURS = (
    *("#4e79a7", "#a0cbe8", "#f28e2b", "#ffbe7d", "#59a14f", "#8cd17d", "#b6992d"),
    *("#f1ce63", "#499894", "#86bcb6", "#e15759", "#ff9d9a", "#79706e", "#bab0ac"),
)
"""Colours of the findings, in their order; neighbours differ in print too."""


LEAST_BARS = 4
"""Fewest bars that the figure has room for, so that a single bar stays thin."""


class Summary(NamedTuple):
    """The content of a shard, also of a planned one.

    Attributes:
        name: Name of the shard.
        images: N, the number of images.
        patients: Number of patients.
        size: Pixels along each side.
        labels: uint8, N x 14, 0, 1 or UNKNOWN; None in a shard for pretraining.
    """

    name: str
    images: int
    patients: int
    size: int
    labels: Bytes | None


def tables(summaries: Sequence[Summary]) -> Iterator[str]:
    """Yield the lines of tables with a column for each summary, at most 6 columns each."""
    for first in range(0, len(summaries), ABREAST):
        yield from _table(summaries[first : first + ABREAST])
        yield ""


def _table(summaries: Sequence[Summary]) -> Iterator[str]:
    def line(title: str, cells: Sequence[str]) -> str:
        return f"{title:<20}" + "".join(f"{cell:>15}" for cell in cells)

    yield line("", [summary.name[:14] for summary in summaries])
    yield line("images", [str(summary.images) for summary in summaries])
    yield line("patients", [str(summary.patients) for summary in summaries])
    yield line("pixels", [f"{summary.size} x {summary.size}" for summary in summaries])
    columns = [_classes(summary) for summary in summaries]
    for i, name in enumerate((*FINDINGS, NO_FINDING)):
        labels = [None if column is None else column[:, i] for column in columns]
        yield line(name, ["-" if one is None else _shown(one) for one in labels])
        if any(one is not None and (one == UNKNOWN).any() for one in labels):
            yield line("  known, unknown", ["-" if one is None else _known(one) for one in labels])


def _classes(summary: Summary) -> Bytes | None:
    """Return the labels with a column for :data:`NO_FINDING`: uint8, N x 15.

    It is unknown for an image that has none of the findings that are known, where some are not.
    """
    if summary.labels is None:
        return None
    healthy = np.where((summary.labels == UNKNOWN).any(axis=1), UNKNOWN, 1)
    healthy[(summary.labels == 1).any(axis=1)] = 0
    return np.column_stack([summary.labels, healthy.astype(np.uint8)])


def _shown(labels: Bytes) -> str:
    count, known = np.sum(labels == 1), np.sum(labels != UNKNOWN)
    return f"{count} {100 * count / known:4.1f} %" if known else "-"


def _known(labels: Bytes) -> str:
    known = np.sum(labels != UNKNOWN)
    return f"{known}, {len(labels) - known}"


def shares_figure(summaries: Sequence[Summary]) -> Image.Image:
    """Draw, for each labelled shard, the share of each finding among all its positive labels."""
    from matplotlib.figure import Figure  # takes a second; only figures need it

    shown = [summary for summary in summaries if summary.labels is not None]
    counts = np.array([(s.labels == 1).sum(axis=0) for s in shown if s.labels is not None])
    healthy = [np.sum((s.labels == 0).all(axis=1)) for s in shown if s.labels is not None]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(
        figsize=(11.9, max(4.4, 1.6 + 0.36 * len(shown))), dpi=100, layout="constrained"
    )
    axes = figure.add_subplot()
    left = np.zeros(len(shown))
    for finding, share, colour in zip(FINDINGS, shares.T, COLOURS, strict=True):
        axes.barh(
            range(len(shown)), share, left=left, color=colour, edgecolor="white", linewidth=0.5,
            label=finding.replace("_", " "),
        )  # fmt: skip
        left += share
    for row in np.flatnonzero(counts.sum(axis=1) == 0).tolist():
        text = NO_FINDING if healthy[row] else "unknown"
        axes.text(0.01, row, text, va="center", color="#666666", fontsize=8)
    names = [
        f"{s.name}\n{s.images} images, {none} {NO_FINDING}"
        for s, none in zip(shown, healthy, strict=True)
    ]
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.set_ylim(max(len(shown), LEAST_BARS) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("share of each finding among all findings of a hospital")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
    file = BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file)
