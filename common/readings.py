"""What :class:`common.histograms.Histograms` tell of a model: AUC, ROC, calibration, thresholds.

Every function takes a finding's films with and without it by bin, ``positives`` and ``negatives``:
int, 512 each; see :meth:`common.histograms.Histograms.of`. What is undefined is None.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from common.findings import FINDINGS
from common.histograms import CENTRES, EDGES, Counts, Histograms
from common.scores import Auc, mean_auc

Floats = npt.NDArray[np.float64]

FEW = 5
"""With fewer films that have a finding, or that do not, an AUC has no interval: from one or two a
bootstrap draws hardly anything else than the same again."""

CALIBRATION_GROUPS = 10

HIGH_SENSITIVITY = 0.9


class FindingAuc(BaseModel):
    """A finding's AUC, read from histograms, with the counts that it rests on."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    auc: Auc | None = Field(description="None without films of both kinds")
    low: Auc | None = Field(description="of DeLong's 95 % interval over films; None: too few")
    high: Auc | None
    bound: float | None = Field(
        description="how far the AUC may be from that of the same logits without bins; where a "
        "policy merges bins, from that of the logits as they were told"
    )
    positives: int = Field(description="films that have the finding")
    negatives: int = Field(description="films that are known not to have it")


class Pooled(BaseModel):
    """The AUC of all films of several hospitals together."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    auc: Auc | None = Field(description="mean over the findings where it is defined")
    by_finding: dict[str, FindingAuc] = Field(description="all fourteen")


def aucs_of(histograms: Histograms) -> dict[str, FindingAuc]:
    """Return each finding's AUC with its interval."""
    return {finding: finding_auc(*histograms.of(finding)) for finding in FINDINGS}


def pooled(histograms: Histograms) -> Pooled:
    """Return the AUCs of all films in histograms that were added up."""
    by_finding = aucs_of(histograms)
    mean = mean_auc({finding: of.auc for finding, of in by_finding.items()})
    return Pooled(auc=mean, by_finding=by_finding)


def finding_auc(positives: Counts, negatives: Counts) -> FindingAuc:
    """Return a finding's AUC with interval, bound and counts."""
    low, high = delong_interval(positives, negatives) or (None, None)
    return FindingAuc(
        auc=auc_of(positives, negatives),
        low=low,
        high=high,
        bound=binning_bound(positives, negatives),
        positives=int(positives.sum()),
        negatives=int(negatives.sum()),
    )


def auc_of(positives: Counts, negatives: Counts) -> float | None:
    """Return the share of pairs of films in which the one with the finding has the higher logit.

    Films in the same bin count half.
    """
    if not positives.any() or not negatives.any():
        return None
    # Whole numbers, so that equal films give equal AUCs; as floats, so that none overflows.
    wins = positives.astype(np.float64) @ (2 * np.cumsum(negatives) - negatives)
    return float(wins / positives.sum(dtype=np.float64) / negatives.sum() / 2)


def binning_bound(positives: Counts, negatives: Counts) -> float | None:
    """Return the largest error of :func:`auc_of` that comes from binning.

    Pairs in the same bin count half, whichever film is higher: sum over bins p_b n_b / (2 P N).
    """
    if not positives.any() or not negatives.any():
        return None
    return float((positives / positives.sum()) @ (negatives / negatives.sum()) / 2)


def delong_interval(
    positives: Counts, negatives: Counts, level: float = 0.95
) -> tuple[float, float] | None:
    """Return an AUC's interval, films taken as independent, within [0, 1].

    None from fewer than :data:`FEW` films of either kind, and where the AUC is 0 or 1: its
    variance is 0 there, and an interval without width would be no interval.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 1988; films of a bin have the same
    placement, as tied scores have in Sun and Xu, IEEE Signal Processing Letters 2014.
    """
    auc = auc_of(positives, negatives)
    if auc is None or min(positives.sum(), negatives.sum()) < FEW:
        return None
    variance = _variance(positives, _placement(negatives), auc)
    variance += _variance(negatives, 1 - _placement(positives), auc)
    if not variance:
        return None
    margin = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)
    return max(0.0, auc - margin), min(1.0, auc + margin)


def _placement(counts: Counts) -> Floats:
    """Return the share of films below each bin, those in it counted half."""
    return np.asarray((np.cumsum(counts) - counts / 2) / counts.sum())


def _variance(counts: Counts, placements: Floats, mean: float) -> float:
    """Return the variance of the mean of films' placements."""
    films = int(counts.sum())
    return float(counts @ (placements - mean) ** 2) / (films - 1) / films


class OperatingPoint(NamedTuple):
    """How a threshold does.

    Attributes:
        threshold: A logit; films at or above it are called positive.
        sensitivity: Share of the films with the finding that are called positive.
        specificity: Share of the films without it that are not.
    """

    threshold: float
    sensitivity: float
    specificity: float


def operating_points(positives: Counts, negatives: Counts) -> list[OperatingPoint] | None:
    """Return the points at all edges of bins, the highest threshold first.

    None without films of both kinds.
    """
    if not positives.any() or not negatives.any():
        return None
    called, falsely = (
        np.append(0, np.cumsum(counts[::-1])) / counts.sum() for counts in (positives, negatives)
    )
    columns = (EDGES[::-1].tolist(), called.tolist(), (1 - falsely).tolist())
    return [OperatingPoint(*point) for point in zip(*columns, strict=True)]


def roc_points(positives: Counts, negatives: Counts) -> tuple[Floats, Floats] | None:
    """Return the ROC curve: 1 - specificity and sensitivity, 513 each, from (0, 0) to (1, 1)."""
    points = operating_points(positives, negatives)
    if points is None:
        return None
    return (
        np.array([1 - point.specificity for point in points]),
        np.array([point.sensitivity for point in points]),
    )


def youden(positives: Counts, negatives: Counts) -> OperatingPoint | None:
    """Return the threshold with the largest sensitivity + specificity (Youden, Cancer 1950).

    Of several, the one in the middle: they lie where no film is.
    """
    points = operating_points(positives, negatives)
    if points is None:
        return None
    best = max(point.sensitivity + point.specificity for point in points)
    alike = [p for p in points if p.sensitivity + p.specificity > best - 1e-12]
    return alike[len(alike) // 2]


def sensitive(
    positives: Counts, negatives: Counts, sensitivity: float = HIGH_SENSITIVITY
) -> OperatingPoint | None:
    """Return the highest threshold that finds at least this share of the films with the finding."""
    points = operating_points(positives, negatives)
    if points is None:
        return None
    return next(point for point in points if point.sensitivity >= sensitivity)


class Calibration(NamedTuple):
    """How the probabilities compare with what is there, in groups of equal width.

    Attributes:
        error: Expected calibration error: mean of |observed - predicted|, weighted by films.
        predicted: Mean probability of each group that has films.
        observed: Share of its films that have the finding.
        films: Number of its films.
    """

    error: float
    predicted: list[float]
    observed: list[float]
    films: list[int]


def calibration(positives: Counts, negatives: Counts) -> Calibration | None:
    """Return how a finding's probabilities compare with what is there; None without films.

    A film's probability is the sigmoid of its bin's centre. Source: Guo et al., "On Calibration of
    Modern Neural Networks", ICML 2017, equation 3.
    """
    films = positives + negatives
    if not films.any():
        return None
    probability = 1 / (1 + np.exp(-CENTRES))
    group = np.minimum((probability * CALIBRATION_GROUPS).astype(int), CALIBRATION_GROUPS - 1)
    in_group, having, summed = (
        np.bincount(group, weights, CALIBRATION_GROUPS)
        for weights in (films, positives, films * probability)
    )
    some = in_group > 0
    observed, predicted = having[some] / in_group[some], summed[some] / in_group[some]
    error = float(in_group[some] @ np.abs(observed - predicted) / films.sum())
    return Calibration(
        error, predicted.tolist(), observed.tolist(), in_group[some].astype(int).tolist()
    )
