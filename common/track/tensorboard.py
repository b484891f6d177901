"""TensorBoard: event files in the folder ``tensorboard`` of a run's folder."""

import json

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from common.track.base import End, Model, Points, TrackedRun

FOLDER = "tensorboard"


class TensorBoard:
    """Writes event files; see :class:`common.track.base.Tracker`.

    Args:
        run: The run.
        again: Whether this process has written to it before. Then nothing is purged: what was
            written would not be sent again.
    """

    def __init__(self, run: TrackedRun, *, again: bool = False) -> None:
        folder = run.folder / FOLDER
        self._last: dict[str, int] = {}
        if folder.is_dir():
            events = EventAccumulator(str(folder), {SCALARS: 0}).Reload()  # 0: all of them
            for tag in events.Tags()[SCALARS]:
                self._last[tag] = max((event.step for event in events.Scalars(tag)), default=-1)
        # A kill may have cut off what was written last: it is written again. In the same process
        # the caller knows what was written whole.
        self._whole = -1 if again else max(self._last.values(), default=0) - 1
        self._writer = SummaryWriter(str(folder), purge_step=None if again else self._whole + 1)
        self._writer.add_text("config", f"```\n{json.dumps(dict(run.config), indent=2)}\n```")
        self._writer.flush()

    def last(self, series: str) -> int:
        """Return the last step of the curves with this prefix that are surely whole."""
        prefix = f"{series}/" if series else ""
        steps = [step for tag, step in self._last.items() if tag.startswith(prefix)]
        return min(self._whole, max(steps, default=-1))

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
