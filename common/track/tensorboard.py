"""TensorBoard: event files in the folder ``tensorboard`` of a run's folder."""

import json

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from common.track.base import End, Model, Points, TrackedRun

FOLDER = "tensorboard"


class TensorBoard:
    """Writes event files; see :class:`common.track.base.Tracker`."""

    def __init__(self, run: TrackedRun) -> None:
        folder = run.folder / FOLDER
        self._last: dict[str, int] = {}
        if folder.is_dir():
            events = EventAccumulator(str(folder), {SCALARS: 1}).Reload()  # the last one of each
            for tag in events.Tags()[SCALARS]:
                self._last[tag] = events.Scalars(tag)[-1].step
        self._writer = SummaryWriter(str(folder))
        self._writer.add_text("config", f"```\n{json.dumps(dict(run.config), indent=2)}\n```")
        self._writer.flush()

    def last(self, series: str) -> int:
        """Return the last step of the curves with this prefix."""
        prefix = f"{series}/" if series else ""
        return max((s for tag, s in self._last.items() if tag.startswith(prefix)), default=-1)

    def write(self, points: Points) -> None:
        """Append to the event file."""
        for name, value in points.named.items():
            self._writer.add_scalar(name, value, points.step, points.time)
        self._writer.flush()

    def register(self, model: Model) -> None:
        """Do nothing: TensorBoard keeps no models."""

    def close(self, end: End) -> None:
        """Close the event file."""
        del end
        self._writer.close()
