"""A process of the grid: makes one first model, or runs one trial.

``python -m experiments.paper.worker TASK`` where TASK is the JSON of a :class:`Task`.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import torch

from common.runtime.cli import run_command
from common.runtime.files import locked
from common.runtime.logs import log_to_stderr
from common.runtime.memory import keep_one_arena
from experiments.paper.cells import Cell, Entry, FirstModel, ScaleName
from experiments.paper.first_models import checkpoint_of
from experiments.paper.scales import SCALES
from experiments.paper.trial import run_trial

PARENT_POLL_SECONDS = 1.0


class Task(Entry):
    """What a process of the grid does.

    Attributes:
        scale: Name of the scale.
        first_model: To be made, or of the trial.
        cell: The trial; None: make the first model only.
        root: Folder of the experiments; see :mod:`experiments.paper.grid`.
        results: Gets the trial's scores, or the curve of the pretraining.
        threads: CPU threads.
        real: The trial runs over gRPC, with processes.
    """

    scale: ScaleName
    first_model: FirstModel
    cell: Cell | None
    root: Path
    results: Path
    threads: int
    real: bool = False

    @property
    def name(self) -> str:
        """What the task is called in the log."""
        return f"pretrain-{self.first_model}" if self.cell is None else self.cell.name


def work(arguments: Sequence[str]) -> None:
    """Do a task.

    Raises:
        BadInput: A file cannot be used, or another process does this task.
    """
    task = Task.model_validate_json(arguments[0])
    os.setpgid(0, 0)
    Thread(target=_end_with_the_grid, args=(os.getppid(),), daemon=True).start()
    log_to_stderr(debug=False)
    keep_one_arena()  # a trial has a thread for each hospital
    torch.set_num_threads(task.threads)
    place = task.root / "work" / f"{task.name}.lock"
    place.mkdir(parents=True, exist_ok=True)
    data, models = task.root / "data", task.root / "models"
    models.mkdir(exist_ok=True)
    with locked(place, place):
        scale = SCALES[task.scale]
        curves = task.results / "pretraining"
        init = checkpoint_of(task.first_model, scale, data, models, curves, task.threads)
        if task.cell is not None:
            run_trial(task.cell, init, data, task.results, task.root / "work", real=task.real)


def _end_with_the_grid(parent: int) -> None:
    """End this process and those it started once its parent has gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Do the task in the arguments and exit."""
    sys.exit(run_command("flower-experiments", work))


if __name__ == "__main__":
    main()
