"""Two first models compared on the trials of a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import fmean, variance
from typing import Any

import numpy.typing as npt
from scipy.stats import t as student

from common.bootstrap import Bootstrap, Estimate, Floats
from experiments.paper.cells import FirstModel, TrialLine
from experiments.paper.rates import SETTINGS, Reading, trials_at_chosen_rate

ROUNDING = 1 / 6
"""Least variance of a difference of two numbers of rounds: each is rounded up to a whole one."""


@dataclass(frozen=True)
class Comparison:
    """Two first models, of which a claim favours one.

    Attributes:
        table: Where it is read off.
        above: The first model that is favoured.
        below: The other one.
        share: Of the labels in table 3, of the final AUC of ``below`` in figure 6; else 1.
    """

    table: Reading
    above: FirstModel
    below: FirstModel
    share: float = 1.0


@dataclass(frozen=True)
class Measured:
    """What the trials say of a comparison.

    Attributes:
        run: Whether there are trials to compare; if not, the note says which are missing.
        note: What a reader must know.
        difference: Above 0 favours ``above``: of mean AUCs, of drops or of rounds; None if it was
            not run or no finding counts.
        ratio: Of the two mean AUCs, in tables 1 and 2.
    """

    run: bool
    note: str
    difference: Estimate | None = None
    ratio: Estimate | None = None


class Trials:
    """Trials of one scale, and the bootstrapped mean AUCs of those that were asked for."""

    def __init__(
        self,
        lines: Sequence[TrialLine],
        scores_of: Callable[[str], npt.NDArray[Any]],
        bootstrap: Bootstrap,
    ) -> None:
        """Keep the trials.

        Args:
            lines: Trials of one scale.
            scores_of: Returns the scores of the test films by a cell's name: float, N x 14.
            bootstrap: Draws of the test patients.

        Raises:
            ValueError: if scales differ, or the rounds of one setting.
        """
        cells = [line.cell for line in lines if line.cell.hospitals == "all"]
        if len({cell.scale for cell in cells}) > 1:
            raise ValueError("trials of several scales: give those of one")
        plans = {(cell.split, cell.mode, cell.rounds) for cell in cells}
        if len({plan[:2] for plan in plans}) < len(plans):
            raise ValueError("trials of one setting differ in their rounds: give those of one plan")
        self._lines = lines
        self._scores_of = scores_of
        self._bootstrap = bootstrap
        self._means: dict[str, Floats] = {}

    def compare(self, comparison: Comparison) -> Measured:
        """Return what the trials say of a comparison, over the seeds that both models have."""
        c = comparison
        fractions = {1.0, c.share} if c.table == "table3" else {1.0}
        trials = {
            (model, labels): trials_at_chosen_rate(self._lines, model, c.table, labels)
            for model in (c.above, c.below)
            for labels in sorted(fractions, reverse=True)
        }
        absent = [
            model if labels == 1 else f"{model} with {100 * labels:g} % of the labels"
            for (model, labels), by_seed in trials.items()
            if not by_seed
        ]
        if absent:
            split, mode = SETTINGS[c.table]
            return Measured(False, f"no trial ({split}, {mode}) of {', '.join(absent)}")
        seeds = sorted(set.intersection(*(set(by_seed) for by_seed in trials.values())))
        if not seeds:
            return Measured(False, "no seed of which there are all trials")
        if c.table == "figure6":
            above, below = trials[c.above, 1.0], trials[c.below, 1.0]
            return _rounds_saved([(above[seed], below[seed]) for seed in seeds], c.share)

        above_full, below_full = (
            {seed: self._mean_auc(trials[model, 1.0][seed]) for seed in seeds}
            for model in (c.above, c.below)
        )
        if c.table != "table3":
            return self._of_aucs(above_full, below_full)
        above_kept, below_kept = (
            {seed: self._mean_auc(trials[model, c.share][seed]) - full[seed] for seed in seeds}
            for model, full in ((c.above, above_full), (c.below, below_full))
        )
        return self._of_drops(above_kept, below_kept)

    def _of_aucs(self, above: dict[int, Floats], below: dict[int, Floats]) -> Measured:
        """Return the difference and the ratio of mean AUCs, given by seed."""
        over_seeds = self._bootstrap.over_seeds
        return Measured(
            True,
            "",
            self._bootstrap.difference(above, below),
            Estimate.of(over_seeds(above) / over_seeds(below), len(above), chance=1),
        )

    def _of_drops(self, above: dict[int, Floats], below: dict[int, Floats]) -> Measured:
        """Return the difference of drops; by seed mean AUCs minus those with all labels."""
        drops = [-self._bootstrap.over_seeds(kept)[0] for kept in (above, below)]
        return Measured(
            True,
            "drops {:.4f} against {:.4f}".format(*drops),
            self._bootstrap.difference(above, below),
        )

    def _mean_auc(self, line: TrialLine) -> Floats:
        name = line.cell.name
        if name not in self._means:
            self._means[name] = self._bootstrap.mean_auc(self._scores_of(name))
        return self._means[name]


def _rounds_saved(trials: Sequence[tuple[TrialLine, TrialLine]], share: float) -> Measured:
    """Return the rounds that ``above`` saves to reach a share of the final AUC of ``below``.

    Scores of films are kept of final models only, so patients cannot be resampled: the interval is
    Student's t over seeds, and unbounded for one seed.

    Args:
        trials: For each seed that of ``above`` and that of ``below``.
        share: Of the final AUC of ``below``.
    """
    needed = []
    never = 0
    for above, below in trials:
        curve = [line.test_auc for line in below.rounds if line.test_auc is not None]
        if not curve:
            return Measured(False, f"no AUC by round of {below.cell.name}")
        reached = [_first_round(line, share * curve[-1]) for line in (above, below)]
        never += reached[0] is None
        needed.append([above.cell.rounds + 1 if at is None else at for at in reached])
    saved = [below - above for above, below in needed]
    note = "rounds: {:.1f} against {:.1f}".format(*(fmean(of) for of in zip(*needed, strict=True)))
    note += "; the interval is over seeds alone"
    if never:
        note += f"; not reached by {never}, counted as one round more than it ran"
    n, mean = len(saved), fmean(saved)
    half, p = inf, 1.0
    if n > 1:
        if variance(saved) < ROUNDING:
            note += ", as wide as rounding to whole rounds makes it"
        error = sqrt(max(variance(saved), ROUNDING) / n)
        half = error * float(student.ppf(0.975, n - 1))
        p = 2 * float(student.sf(abs(mean) / error, n - 1))
    return Measured(True, note, Estimate(mean, mean - half, mean + half, p, n, n > 1))


def _first_round(line: TrialLine, auc: float) -> int | None:
    """Return the first round after which the test AUC is at least this."""
    return next(
        (at.round for at in line.rounds if at.test_auc is not None and at.test_auc >= auc), None
    )
