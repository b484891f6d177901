"""How sure an AUC is: intervals over test patients and seeds, and their p-values.

Films of one patient resemble each other, so patients are resampled, never films (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 8: resample the independent units).
The draws depend on nothing but the films and a seed, so every model sees the same ones, and
differences between models are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from common.findings import UNKNOWN
from common.seeds import generator

Floats = npt.NDArray[np.float64]

LEAST_POSITIVES = 20
"""Positive test films that a finding needs to count in the primary mean.

The standard error of an AUC near 0.7 from 20 independent positives is about 0.06 (Hanley and
McNeil, Radiology 1982); from fewer, one finding's noise would hide differences of the mean.
"""

DRAWS = 2000
"""Bootstrap draws; the ends of a 95 % interval are then the 50th draws from either side."""

LEAST_SEEDS = 3
"""Seeds from which on they are resampled: two say next to nothing of others."""

DRAWS_AT_ONCE = 128
"""Draws per block: a block of 1,000 films fits into a core's cache, one of 25,000 into memory."""


@dataclass(frozen=True)
class Films:
    """Test films.

    Attributes:
        labels: uint8, N x 14, 0, 1 or UNKNOWN.
        patients: Patient of each film, N names.
    """

    labels: npt.NDArray[np.uint8]
    patients: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.patients):
            raise ValueError(f"{len(self.labels)} rows of labels, {len(self.patients)} patients")

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """Which findings count in the primary mean: bool, 14."""
        return np.asarray((self.labels == 1).sum(axis=0) >= LEAST_POSITIVES)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: On the test films as they are, mean over seeds.
        low: Lower end.
        high: Upper end.
        p: Two-sided, of the hypothesis that the number is what chance gives; not corrected.
        seeds: Seeds that the value is the mean of.
        seeds_resampled: Whether the interval covers seeds too, not patients alone.
    """

    value: float
    low: float
    high: float
    p: float
    seeds: int
    seeds_resampled: bool

    @classmethod
    def of(cls, draws: Floats, seeds: int, chance: float = 0.0) -> Self | None:
        """Return the percentile interval, or None where the number is undefined.

        p is twice the share of draws on the far side of chance, at most 1, with one more draw
        counted there (Davison and Hinkley, "Bootstrap Methods", 1997, equation 4.11).

        Args:
            draws: float64, 1 + D; the value first; NaN where undefined in a draw.
            seeds: Seeds behind the value.
            chance: What the number is where nothing is there to be found.
        """
        value, drawn = draws[0], draws[1:][~np.isnan(draws[1:])]
        if np.isnan(value) or not len(drawn):
            return None
        low, high = np.quantile(drawn, [0.025, 0.975])
        tail = 1 + min(np.sum(drawn <= chance), np.sum(drawn >= chance))
        p = min(1.0, 2 * float(tail) / (1 + len(drawn)))
        return cls(float(value), float(low), float(high), p, seeds, seeds >= LEAST_SEEDS)


class Bootstrap:
    """The same draws of test patients for every model.

    Results have 1 + D entries: entry 0 is of the films as they are, the others are of one draw
    each, NaN where undefined.
    """

    def __init__(self, films: Films, seed: int, draws: int = DRAWS) -> None:
        """Draw patients.

        Args:
            films: Test films, of one patient at least.
            seed: Seed of the draws of patients and of seeds.
            draws: Number of draws D.
        """
        self.films = films
        self.seed = seed
        names, self.patient = np.unique(list(films.patients), return_inverse=True)
        rng = generator(seed, "bootstrap of patients")
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
        as_they_are = np.ones((1, len(names)))
        self.times = np.concatenate([as_they_are, drawn])
        """How often each draw has each patient: float64, (1 + D) x patients."""

    def auc_by_finding(self, scores: npt.NDArray[Any]) -> Floats:
        """Return the AUC of each finding over the films where it is known: float64, (1 + D) x 14.

        Args:
            scores: float, N x 14; higher means more likely.

        Raises:
            ValueError: if scores have another shape than the labels, or are not numbers.
        """
        labels = self.films.labels
        if scores.shape != labels.shape:
            raise ValueError(f"scores are {scores.shape}, labels {labels.shape}")
        if np.isnan(scores).any():
            raise ValueError("some scores are NaN: the model has diverged")
        columns = [
            weighted_auc(labels[known, i] == 1, scores[known, i], self.patient[known], self.times)
            for i, known in enumerate((labels != UNKNOWN).T)
        ]
        return np.stack(columns, axis=1)

    def mean_auc(self, scores: npt.NDArray[Any]) -> Floats:
        """Return the primary mean: float64, 1 + D.

        A finding that is undefined in a draw is left out of that draw's mean. This depends on the
        labels alone, so it is left out for all models alike.
        """
        aucs = self.auc_by_finding(scores)[:, self.films.counted]
        defined = ~np.isnan(aucs)
        return _quotient(np.where(defined, aucs, 0).sum(axis=1), defined.sum(axis=1))

    def over_seeds(self, by_seed: Mapping[int, Floats]) -> Floats:
        """Return the mean over seeds: float64, shaped as each seed's array.

        Seeds are resampled along with patients if there are :data:`LEAST_SEEDS` or more, with the
        same draws for every model that has as many; fewer are kept as they are. A draw is of one
        seed less than there are, so that its mean varies as the seeds' mean does (Rao and Wu, JASA
        1988). Three seeds still give too narrow an interval if they differ more than patients do.

        Args:
            by_seed: For each seed float64, (1 + D) or (1 + D) x 14; one seed at least.
        """
        values = np.stack([by_seed[seed] for seed in sorted(by_seed)])
        seeds = len(values)
        shares = np.full((len(self.times), seeds), 1 / seeds)
        if seeds >= LEAST_SEEDS:
            rng = generator(self.seed, "bootstrap of seeds")
            drawn = rng.multinomial(seeds - 1, shares[0], size=len(shares) - 1)
            shares[1:] = drawn / (seeds - 1)
        return np.asarray(np.einsum("ds,sd...->d...", shares, values))

    def difference(self, a: Mapping[int, Floats], b: Mapping[int, Floats]) -> Estimate | None:
        """Return the paired difference a - b over the seeds that both have.

        Args:
            a: Primary mean of each seed, as :meth:`mean_auc` returns it.
            b: The same of the other model.

        Returns:
            None if no seed is shared, or if no finding counts.
        """
        shared = a.keys() & b.keys()
        if not shared:
            return None
        draws = self.over_seeds({seed: a[seed] - b[seed] for seed in shared})
        return Estimate.of(draws, len(shared))

    def finding_estimates(self, by_seed: Mapping[int, Floats]) -> list[Estimate | None]:
        """Return each finding's AUC with its interval, None where it is undefined.

        Args:
            by_seed: For each seed what :meth:`auc_by_finding` returns; one seed at least.
        """
        means = self.over_seeds(by_seed)
        return [Estimate.of(column, len(by_seed), chance=0.5) for column in means.T]


def weighted_auc(
    positive: npt.NDArray[np.bool_],
    scores: npt.NDArray[Any],
    patient: npt.NDArray[np.intp],
    times: Floats,
) -> Floats:
    """Return the AUC of a finding in each draw: float64, D; NaN without a positive or a negative.

    The Mann-Whitney statistic: the share of pairs of a positive and a negative film in which the
    positive one has the higher score; equal scores count half. A film counts as often as its
    patient was drawn.

    Args:
        positive: bool, N.
        scores: float, N, none of them NaN.
        patient: Column of ``times`` of each film's patient: N.
        times: How often each draw has each patient: D x patients, whole numbers.
    """
    scores = scores.astype(np.float64)
    order = np.argsort(scores[~positive])
    negatives = scores[~positive][order]
    lower = np.searchsorted(negatives, scores[positive], side="left")
    not_higher = np.searchsorted(negatives, scores[positive], side="right")
    aucs = []
    for start in range(0, len(times), DRAWS_AT_ONCE):
        block = times[start : start + DRAWS_AT_ONCE]
        below = np.zeros((len(block), len(negatives) + 1))
        np.cumsum(block[:, patient[~positive][order]], axis=1, out=below[:, 1:])
        weights = block[:, patient[positive]]
        wins = (weights * (below[:, lower] + below[:, not_higher])).sum(axis=1) / 2
        aucs.append(_quotient(wins, weights.sum(axis=1) * below[:, -1]))
    return np.concatenate(aucs)


def _quotient(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Floats:
    """Return a / b, NaN where b is 0."""
    return np.asarray(np.divide(a, b, out=np.full(a.shape, np.nan), where=b != 0))
