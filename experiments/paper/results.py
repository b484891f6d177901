"""The trials of a grid, read back, with the bootstrap of the test films."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import numpy as np

from common.bootstrap import Bootstrap, Estimate, Films, Floats
from common.errors import BadInput
from common.shard import open_shard
from experiments.paper.cells import Cell, FailedLine, FirstModel, TrialLine
from experiments.paper.grid import chosen_rates, read_failed, read_trials
from experiments.paper.rates import Reading, trials_at_chosen_rate
from experiments.paper.report_input import Curve, CurvePoint, Interval
from experiments.paper.scales import Scale
from experiments.paper.starts import check_data, check_starts

KeyT = TypeVar("KeyT")

NOT_RUN = "not run yet"


class Results:
    """The trials of one scale, with the test films' bootstrap.

    Trials of a first model whose rate is not chosen yet are left out: the best of some of its rates
    need not be the best of all.

    Args:
        scale: Of the trials.
        results: Folder of the lines.
        data: The shards.

    Raises:
        BadInput: No first model has been tried at all its rates, a line is damaged, or the trials
            of a first model began from several files, or trained on other films.

    Attributes:
        lines: Of the trials.
        failed: Of those that failed and were not done later.
        diverged: Names of those of them whose training diverged.
        rates: The chosen learning rates by mode and first model.
        undecided: Trials that are left out.
    """

    def __init__(self, scale: Scale, results: Path, data: Path) -> None:
        self.scale = scale
        lines = [line for line in read_trials(results) if line.cell.scale == scale.name]
        if not lines:
            raise BadInput(f"{results}: no trial of scale {scale.name} is done; run some first")
        check_starts(lines)
        self.failed = [line for line in read_failed(results) if line.cell.scale == scale.name]
        self.diverged = {line.cell.name for line in self.failed if line.diverged}
        self.rates = chosen_rates(scale, lines, self.diverged)
        self.lines = [
            line for line in lines if (line.cell.mode, line.cell.first_model) in self.rates
        ]
        if not self.lines:
            raise BadInput(
                f"{results}: no first model of scale {scale.name} has been tried at all its "
                "learning rates yet; go on with flower-experiments run"
            )
        self.undecided = [line for line in lines if line not in self.lines]
        self.test = open_shard(data / "test")
        check_data(lines, data)
        patients = [entry.patient for entry in self.test.entries]
        self.films = Films(self.test.labelled(), patients)
        self._scores = results / "scores"
        self.bootstrap = Bootstrap(self.films, seed=0)
        self.mean = cache(lambda name: self.bootstrap.mean_auc(self.scores_of(name)))
        self.by_finding = cache(lambda name: self.bootstrap.auc_by_finding(self.scores_of(name)))

    def scores_of(self, name: str) -> Floats:
        """Return a cell's scores of the test films: float64, N x 14.

        Raises:
            BadInput: The file is missing or damaged.
        """
        file = self._scores / f"{name}.npy"
        try:
            return np.asarray(np.load(file, allow_pickle=False), np.float64)
        except (OSError, ValueError) as error:
            raise BadInput(f"{file}: {type(error).__name__}; restore it from a copy") from None

    def trials(
        self, table: Reading, model: FirstModel, fraction: float = 1.0
    ) -> dict[int, TrialLine]:
        """Return the trials of a first model in a table, at its rate, by seed."""
        return trials_at_chosen_rate(self.lines, model, table, fraction)

    def means(self, trials: Mapping[int, TrialLine]) -> dict[int, Floats]:
        """Return the bootstrapped primary mean of each seed."""
        return {seed: self.mean(line.cell.name) for seed, line in trials.items()}

    def aucs(self, trials: Mapping[int, TrialLine]) -> dict[int, Floats]:
        """Return the bootstrapped AUC of each finding, of each seed."""
        return {seed: self.by_finding(line.cell.name) for seed, line in trials.items()}

    def interval(self, by_seed: Mapping[int, Floats]) -> Interval | None:
        """Return the mean over seeds with its interval."""
        return interval(Estimate.of(self.bootstrap.over_seeds(by_seed), len(by_seed)))

    def difference(self, a: Mapping[int, Floats], b: Mapping[int, Floats]) -> Interval | None:
        """Return the paired difference over the seeds of both."""
        return interval(self.bootstrap.difference(a, b))


def interval(estimate: Estimate | None) -> Interval | None:
    """Return an estimate as the report has it."""
    if estimate is None:
        return None
    return Interval(value=estimate.value, low=estimate.low, high=estimate.high)


def curve_of(line: TrialLine) -> Curve:
    """Return a trial round by round."""
    sums = accumulate(at.bytes for at in line.rounds)
    # A round's validation AUC is that of the model before it.
    later = [at.validation_auc for at in line.rounds[1:]] + [line.validation_auc]
    points = [
        CurvePoint(round=at.round, validation_auc=validation, test_auc=at.test_auc, bytes=total)
        for at, validation, total in zip(line.rounds, later, sums, strict=True)
    ]
    return Curve(first_model=line.cell.first_model, seed=line.cell.seed, points=points)


def trials_by(
    lines: Sequence[TrialLine], cells: Iterable[Cell], key: Callable[[Cell], KeyT]
) -> dict[KeyT, dict[int, TrialLine]]:
    """Return the trials of these cells, as far as they are done, by a key and by seed."""
    done = {line.cell: line for line in lines}
    found: dict[KeyT, dict[int, TrialLine]] = {}
    for cell in cells:
        if cell in done:
            found.setdefault(key(cell), {})[cell.seed] = done[cell]
    return found


def reason_for(
    failed: Sequence[FailedLine], is_of: Callable[[Cell], bool], otherwise: str = NOT_RUN
) -> str:
    """Return why there is no trial of some cells: what failed first, or ``otherwise``."""
    return next((line.reason for line in failed if is_of(line.cell)), otherwise)
