"""The grid of trials: which are done, which come next, several at once, to the end.

::

    ROOT/data       the shards                     RESULTS/trials.jsonl   a line for each trial
    ROOT/models     the first models               RESULTS/failed.jsonl   why a trial failed
    ROOT/work       runs that are not done, logs   RESULTS/scores         of the test films
                                                   RESULTS/pretraining    curves of the first models
"""

import logging
import signal
import time
from collections.abc import Collection, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar

import torch
from pydantic import ValidationError

from common.errors import BadInput, first_problem
from common.options import Mode
from common.runtime.files import append_json, drop_torn_line
from experiments.paper.cells import Cell, FailedLine, FirstModel, Table, TrialLine
from experiments.paper.rates import chosen_rate, chosen_settings
from experiments.paper.scales import Scale, cells_of
from experiments.paper.starts import check_data, check_starts
from experiments.paper.trial import keep_line
from experiments.paper.worker import Task
from experiments.paper.workers import Running, Workers

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2

NOT_AVAILABLE = "not available: the weights are not on this machine and could not be downloaded"

LineT = TypeVar("LineT", TrialLine, FailedLine)
MADE: tuple[FirstModel, ...] = ("rotation", "simclr", "byol", "mocov2", "statistics", "scrambled")


class Grid:
    """Runs the trials of some tables.

    Args:
        scale: Of the experiments.
        tables: In the order in which they are run.
        root: Folder for data, models and work.
        results: Folder for the lines.
        workers: Start the tasks.
        first_models: Run no others; empty: all.
        real: Run trials over gRPC, with processes.
    """

    def __init__(
        self,
        scale: Scale,
        tables: Sequence[Table],
        root: Path,
        results: Path,
        workers: Workers,
        first_models: Sequence[FirstModel] = (),
        real: bool = False,
    ) -> None:
        self._scale = scale
        self._tables = tables
        self._root = root.absolute()
        self._results = results.absolute()
        self._workers = workers
        self._first_models = first_models
        self._real = real
        self._running: dict[str, tuple[Task, Running]] = {}
        self.failed: dict[str, str] = {}
        self._diverged: set[str] = set()  # in earlier runs too
        self._unavailable: set[FirstModel] = set()
        (root / "work").mkdir(parents=True, exist_ok=True)
        results.mkdir(parents=True, exist_ok=True)
        for file in ("trials.jsonl", "failed.jsonl"):
            drop_torn_line(results / file)
        if (results / "failed.jsonl").exists():
            self._diverged |= {line.cell.name for line in read_failed(results) if line.diverged}

    def run(self) -> None:
        """Run whatever is left; a task that fails does not end the others.

        Raises:
            BadInput: A line of the results is damaged, or trials of a first model began from
                another file than it has now, or had other films.
        """
        ours = [line for line in read_trials(self._results) if line.cell.scale == self._scale.name]
        check_starts(ours, self._root / "models")
        check_data(ours, self._root / "data")
        start, before = time.monotonic(), len(read_trials(self._results))
        try:
            while True:
                lines = read_trials(self._results)
                for task in self._next(lines)[: self._workers.jobs - len(self._running)]:
                    self._start(task)
                    self._tell(lines, before, time.monotonic() - start)
                if not self._running:
                    break
                while not self._collect():
                    time.sleep(POLL_SECONDS)
        finally:
            for _, running in self._running.values():
                running.terminate()
            for _, running in self._running.values():
                running.wait()

    def cells(self, lines: Sequence[TrialLine]) -> list[Cell]:
        """Return the cells of the tables, as far as the results decide which they are."""
        scale, chosen = self._scale, chosen_rates(self._scale, lines, self._diverged)
        tuned = chosen_settings(scale, lines, chosen, self._diverged)
        found = [cell for table in self._tables for cell in cells_of(scale, table, chosen, tuned)]
        only = self._first_models
        return [cell for cell in dict.fromkeys(found) if not only or cell.first_model in only]

    def _next(self, lines: Sequence[TrialLine]) -> list[Task]:
        """Return what can be started now, in order: a first model before its trials."""
        done = {line.cell for line in lines}
        tasks: dict[str, Task] = {}
        for cell in self.cells(lines):
            model = cell.first_model
            made = model not in MADE or (self._root / "models" / f"{model}.pt").exists()
            task = Task(
                scale=self._scale.name,
                first_model=model,
                cell=cell if made else None,
                root=self._root,
                results=self._results,
                threads=self._workers.threads,
                real=self._real,
            )
            lost = {f"pretrain-{model}", task.name} & (self.failed.keys() | self._diverged)
            lost |= self._unavailable & {model}
            if cell not in done and not lost and task.name not in self._running:
                tasks[task.name] = task
        return self._one_pretraining(list(tasks.values()))

    def _one_pretraining(self, tasks: list[Task]) -> list[Task]:
        """Return the tasks with one pretraining at most on a GPU, whose memory is not for two."""
        if not torch.cuda.is_available():
            return tasks
        busy = any(task.cell is None for task, _ in self._running.values())
        first = [task for task in tasks if task.cell is None][: not busy]
        return [task for task in tasks if task.cell is not None or task in first]

    def _start(self, task: Task) -> None:
        running = self._workers.start(task, self._root / "work" / f"{task.name}.log")
        self._running[task.name] = task, running

    def _collect(self) -> bool:
        """Return whether a task has ended; keep the trials' lines and note those that failed."""
        ended = {name: running.poll() for name, (_, running) in self._running.items()}
        for name, code in ended.items():
            if code is not None:
                task, _ = self._running.pop(name)
                if code:
                    self._note_failure(task, code)
                elif task.cell is not None:
                    keep_line(task.cell, self._results, self._root / "work")
        return any(code is not None for code in ended.values())

    def _note_failure(self, task: Task, code: int) -> None:
        reason = reason_of(code, self._root / "work" / f"{task.name}.log")
        if task.first_model == "imagenet" and "--init imagenet: " in reason:  # not at hand here
            self._unavailable.add("imagenet")
            log.warning("ImageNet's weights are not available: %s", reason)
            reason = NOT_AVAILABLE
        else:
            self.failed[task.name] = reason
            log.error("%s failed: %s", task.name, reason)
        if task.cell is not None:
            line = FailedLine(cell=task.cell, reason=reason)
            if line.diverged:
                self._diverged.add(task.name)
            append_json(self._results / "failed.jsonl", line.model_dump(mode="json"))

    def _tell(self, lines: Sequence[TrialLine], before: int, seconds: float) -> None:
        cells = self.cells(lines)
        done = sum(cell in {line.cell for line in lines} for cell in cells)
        left = ""
        if len(lines) > before:
            each = seconds / (len(lines) - before)
            left = f", {timedelta(seconds=round(each * (len(cells) - done)))} left for these"
        log.info(
            "%d of %d known trials done%s: %s", done, len(cells), left, ", ".join(self._running)
        )


def reason_of(code: int, log_file: Path) -> str:
    """Return why a task failed: the signal that killed it, or the last line of its log.

    Args:
        code: Its exit code, negative for a signal.
        log_file: Its log.
    """
    if code < 0:
        text = f"killed by {signal.Signals(-code).name}"
        return (
            f"{text}, perhaps for want of memory: lower --jobs" if -code == signal.SIGKILL else text
        )
    words = log_file.read_text(errors="replace").split("\n")
    return next((line for line in reversed(words) if line.strip()), f"exit code {code}")


def read_trials(results: Path) -> list[TrialLine]:
    """Return the trials that are done.

    Raises:
        BadInput: A line is damaged.
    """
    return _read(results / "trials.jsonl", TrialLine)


def read_failed(results: Path) -> list[FailedLine]:
    """Return the trials that failed and were not done later, each as it failed last.

    Raises:
        BadInput: A line is damaged.
    """
    done = {line.cell for line in read_trials(results)}
    last = {line.cell: line for line in _read(results / "failed.jsonl", FailedLine)}
    return [line for cell, line in last.items() if cell not in done]


def _read(file: Path, model: type[LineT]) -> list[LineT]:
    if not file.exists():
        return []
    lines = []
    for number, text in enumerate(file.read_text().splitlines(), start=1):
        try:
            lines.append(model.model_validate_json(text))
        except ValidationError as error:
            raise BadInput(
                f"{file}, line {number}: {first_problem(error)}; restore it from a copy"
            ) from None
    return lines


def chosen_rates(
    scale: Scale, lines: Sequence[TrialLine], diverged: Collection[str] = ()
) -> dict[tuple[Mode, FirstModel], float]:
    """Return the chosen learning rate for each mode and first model of which all rates were tried.

    See :func:`experiments.paper.rates.chosen_rate`. Rates with which training diverges are left
    out; where a trial failed otherwise, its rate is still to be tried.

    Args:
        scale: Says which rates there are.
        lines: Trials that are done.
        diverged: Names of the trials that did.
    """
    found: dict[tuple[Mode, FirstModel], float] = {}
    done = {line.cell for line in lines}
    settings: tuple[tuple[Literal["table1", "table2"], Mode], ...] = (
        ("table1", "linear"),
        ("table2", "finetune"),
    )
    for table, mode in settings:
        tries: dict[FirstModel, list[Cell]] = {}
        for cell in cells_of(scale, table, {}):
            tries.setdefault(cell.first_model, []).append(cell)
        for model, cells in tries.items():
            rate = chosen_rate(lines, model, table)
            if rate is not None and all(cell in done or cell.name in diverged for cell in cells):
                found[mode, model] = rate
    return found
