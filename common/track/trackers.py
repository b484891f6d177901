"""Tells trackers of a run, each in a thread of its own, so that none can hold the run up."""

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from threading import Condition, Thread
from time import monotonic, time

from common.track.base import End, Model, Points, TrackedRun, Tracker
from common.track.options import TrackerName

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
"""Shortest time between two tries of a tracker that fails."""

MOST_WAITING = 10_000
"""Points that wait for a tracker that fails; later ones are not kept."""

CLOSE_SECONDS = {"finished": 300.0, "stopped": 3.0, "failed": 3.0}
"""Most time to wait at the end, for a slow upload of the model; a tracker that fails is waited for
no longer than one request takes."""

LABELS: dict[TrackerName, str] = {
    "tensorboard": "TensorBoard",
    "mlflow": "MLflow",
    "wandb": "Weights & Biases",
}

Job = Callable[[Tracker], None]


class Trackers:
    """The trackers of one run.

    Points of a step that a tracker has already are left out, so that after a resumption the whole
    past may be told again: a tracker that missed some of it gets it then.

    Args:
        names: Which.
        run: The run.
        same: File of the run's folder with the same numbers, for messages.
    """

    def __init__(self, names: Iterable[TrackerName], run: TrackedRun, same: str) -> None:
        self._workers = [Worker(LABELS[name], _opener(name, run), same) for name in names]

    def points(self, series: str, step: int, values: Mapping[str, float | None]) -> None:
        """Send the values that are not None; see :class:`Points`."""
        defined = {name: value for name, value in values.items() if value is not None}
        points = Points(series, step, defined, time())
        for worker in self._workers:
            worker.write(points)

    def model(self, model: Model) -> None:
        """Send a model, whose files must stay until :meth:`close`."""
        for worker in self._workers:
            worker.put(lambda tracker: tracker.register(model))

    def close(self, end: End) -> None:
        """Say how the run ended, and wait until everything is sent, within limits."""
        for worker in self._workers:
            worker.put(lambda tracker: tracker.close(end))
        deadline = monotonic() + CLOSE_SECONDS[end]
        for worker in self._workers:
            worker.leave(deadline)


def _opener(name: TrackerName, run: TrackedRun) -> Callable[[], Tracker]:
    """Return what connects to a tracker; it imports the tracker's package."""
    opened = False

    def connect() -> Tracker:
        nonlocal opened
        match name:
            case "tensorboard":
                from common.track.tensorboard import TensorBoard

                board = TensorBoard(run, again=opened)
                opened = True
                return board
            case "mlflow":
                from common.track.mlflow import MLflow

                return MLflow(run)
            case "wandb":
                from common.track.wandb import WandB

                return WandB(run)

    return connect


class Worker:
    """Does what one tracker is to be told, one thing after the other, in a thread.

    What fails is tried again: at once, whenever something new comes, and at the end.

    Args:
        label: The tracker's name in messages.
        connect: Returns a connection.
        same: File with the same numbers, for messages.
    """

    def __init__(self, label: str, connect: Callable[[], Tracker], same: str) -> None:
        self._label, self._connect, self._same = label, connect, same
        self._changed = Condition()
        self._jobs: deque[Job] = deque([lambda _: None])  # connects
        self._leaving = self._warned = False
        self._failures = 0
        self._retry_at = 0.0
        self._written: dict[str, int] = {}
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Add something to do."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def write(self, points: Points) -> None:
        """Add points, unless too much waits already."""

        def job(tracker: Tracker) -> None:
            last = max(tracker.last(points.series), self._written.get(points.series, -1))
            if points.step > last:
                tracker.write(points)
                self._written[points.series] = points.step

        if len(self._jobs) < MOST_WAITING:
            self.put(job)

    def leave(self, deadline: float) -> None:
        """Wait until everything is done, the tracker fails again, or it is too late."""
        with self._changed:
            self._leaving = True
            self._changed.notify()
        self._thread.join(max(0.0, deadline - monotonic()))
        if self._jobs:
            log.warning("%s lacks the end of the run; %s has it", self._label, self._same)

    def _work(self) -> None:
        tracker: Tracker | None = None
        while (job := self._next()) is not None:
            last_try = self._leaving
            try:
                tracker = tracker or self._connect()
                job(tracker)
            except Exception as error:  # noqa: BLE001 - of a package that is not ours
                tracker = None
                self._failures += 1
                if self._failures == 1:
                    continue  # the connection may have been idle for too long
                self._note(error)
                if last_try:
                    return
            else:
                if self._failures > 1:
                    log.info("%s is back", self._label)
                self._failures = 0
                self._jobs.popleft()

    def _next(self) -> Job | None:
        """Wait until something is to be done; return None if nothing will be any more."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._leaving
                    or (self._jobs and (self._failures < 2 or monotonic() >= self._retry_at))
                )
            )
            return self._jobs[0] if self._jobs else None

    def _note(self, error: Exception) -> None:
        log.debug("%s fails", self._label, exc_info=error)
        self._retry_at = monotonic() + RETRY_SECONDS
        if not self._warned:
            self._warned = True
            log.warning(
                "%s cannot be written (%s); the run goes on, and tries it again from time to time; "
                "%s has the same numbers",
                self._label,
                reason_of(error),
                self._same,
            )


def reason_of(error: Exception) -> str:
    """Return what an error began with, in a line, without a name and password in an address."""
    first: BaseException = error
    while (inner := first.__cause__ or first.__context__) is not None:
        first = inner
    text = getattr(first, "strerror", None) or str(first).strip() or type(first).__name__
    return re.sub(r"//[^/@\s]*@", "//", text.splitlines()[0])[:200]
