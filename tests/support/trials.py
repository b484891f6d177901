"""Made-up trials, films to score, and a grid that trains nothing."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from common.bootstrap import Bootstrap, Films, Floats
from experiments.paper.cells import Cell, Environment, TrialLine
from experiments.paper.grid import chosen_rates
from experiments.paper.results import Results
from experiments.paper.scales import Scale
from experiments.paper.trial import LINE
from experiments.paper.worker import Task

HERE = Environment(commit="c", torch="t", cpu="c", gpu=None, precision="auto", threads=1)

RNG = np.random.default_rng(0)

FILMS = Films(
    (RNG.random((500, 14)) < 0.3).astype(np.uint8), [f"p{i}" for i in RNG.integers(0, 60, 500)]
)

NOISE = RNG.normal(size=(500, 14))


def line(cell: Cell, validation: float | None, test: float) -> TrialLine:
    return TrialLine(
        cell=cell,
        rounds=[],
        validation_auc=validation,
        test_auc_by_finding={"Mass": test},
        first_model_sha256=None,
        model_sha256="0",
        hospitals_lost=[],
        hospitals_unusual=[],
        seconds=1.0,
        environment=HERE,
    )


def made_up_scores(cell: Cell, signal: float, films: Films = FILMS) -> Floats:
    """Return scores with so much of the labels in them; the noise is the same for all cells."""
    shaken = np.random.default_rng(cell.seed).normal(0, 0.1, films.labels.shape)
    return np.asarray(signal * films.labels + NOISE + shaken, np.float64)


class MadeUpResults(Results):
    """Trials with made-up scores, without their files.

    Args:
        scale: Of the trials.
        lines: Theirs.
        signal: Returns how much of the labels is in a cell's scores.
        films: Test films, 500.
    """

    def __init__(
        self,
        scale: Scale,
        lines: list[TrialLine],
        signal: Callable[[Cell], float],
        films: Films = FILMS,
    ) -> None:
        self.scale = scale
        self.lines = lines
        self.diverged = set()
        self.rates = chosen_rates(scale, lines)
        self.films: Films = films
        self.bootstrap = Bootstrap(films, seed=0, draws=500)
        cells = {line.cell.name: line.cell for line in lines}

        def scores(name: str) -> Floats:
            return made_up_scores(cells[name], signal(cells[name]), films)

        self.mean = cache(lambda name: self.bootstrap.mean_auc(scores(name)))
        self.by_finding = cache(lambda name: self.bootstrap.auc_by_finding(scores(name)))


class Done:
    """A task that is done; see :class:`experiments.paper.workers.Running`."""

    def poll(self) -> int:
        return 0

    def terminate(self) -> None:
        raise AssertionError("it is done")

    def wait(self) -> None:
        raise AssertionError("it is done")


class Instant:
    """Does tasks at once, without training; see :class:`experiments.paper.workers.Workers`.

    Args:
        validation: Returns the validation AUC of a cell.
    """

    jobs = threads = 1

    def __init__(self, validation: Callable[[Cell], float]) -> None:
        self._validation = validation

    def start(self, task: Task, log: Path) -> Done:
        assert task.cell is not None
        folder = log.parent / task.cell.name
        folder.mkdir()
        made = line(task.cell, self._validation(task.cell), test=0.5)
        (folder / LINE).write_text(made.model_dump_json())
        return Done()
