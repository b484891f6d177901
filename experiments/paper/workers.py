"""Where the grid's tasks run: the interface, and processes on this machine."""

from pathlib import Path
from typing import Protocol

from experiments.launch.processes import Process
from experiments.paper.worker import Task

WORKER = "from experiments.paper.worker import main; main()"


class Running(Protocol):
    """A task that was started."""

    def poll(self) -> int | None:
        """Return the exit code; None while the task runs."""

    def terminate(self) -> None:
        """Tell it to end."""

    def wait(self) -> object:
        """Wait for its end."""


class Workers(Protocol):
    """Starts tasks.

    Attributes:
        jobs: Tasks at once.
        threads: CPU threads of each.
    """

    jobs: int
    threads: int

    def start(self, task: Task, log: Path) -> Running:
        """Start a task; what it says is appended to the log, its error on the last line."""


class LocalWorkers:
    """Starts each task as a process on this machine; see :class:`Workers`."""

    def __init__(self, jobs: int, threads: int) -> None:
        self.jobs = jobs
        self.threads = threads

    def start(self, task: Task, log: Path) -> Running:
        """Start a task."""
        return Process(WORKER, [task.model_dump_json()], {}, (log, log))
