"""What a tracker is told of a run, and what it must be able to do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

Scalar = str | int | float | bool | None

End = Literal["finished", "stopped", "failed"]


class TrackedRun(NamedTuple):
    """A run, as trackers know it.

    Attributes:
        id: The same after every resumption.
        name: For people.
        folder: Where a tracker may keep files.
        unit: What the steps of its curves count, such as ``round``.
        config: Its settings, without paths and addresses.
    """

    id: str
    name: str
    folder: Path
    unit: str
    config: Mapping[str, Scalar]


class Points(NamedTuple):
    """A point of each of several curves.

    Attributes:
        series: The curves' common prefix; may be empty. Its steps only ever increase.
        step: Where on the axis.
        values: By the curve's name without the prefix.
        time: Seconds since the epoch.
    """

    series: str
    step: int
    values: Mapping[str, float]
    time: float

    @property
    def named(self) -> dict[str, float]:
        """The values by the curve's whole name."""
        prefix = f"{self.series}/" if self.series else ""
        return {prefix + name: value for name, value in self.values.items()}


class Model(NamedTuple):
    """A model to register.

    Attributes:
        name: Runs of the same kind share it; each gives it another version.
        files: Its checkpoints; the first one is what the version is of.
        text: What it is and how it is loaded, in Markdown.
    """

    name: str
    files: tuple[Path, ...]
    text: str


class Tracker(Protocol):
    """One connection to a tracker, used by one thread.

    Its constructor takes a :class:`TrackedRun`, continues that run if the tracker knows it, and
    sends the config. Every method may raise anything; the connection is not used after that.
    """

    def last(self, series: str) -> int:
        """Return the last step of a series that the tracker has; -1: none."""

    def write(self, points: Points) -> None:
        """Send points."""

    def register(self, model: Model) -> None:
        """Send a model; does nothing where a tracker keeps no models."""

    def close(self, end: End) -> None:
        """Say how the run ended, and disconnect."""
