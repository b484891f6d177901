"""Differences between the AUCs of two models on the same films, from counts alone."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from common.readings import FindingAuc

MEAN = "mean"
"""Stands in a finding's place for the mean over the findings."""


class Estimate(NamedTuple):
    """A number read from histograms.

    Attributes:
        value: The number.
        low: Of its 95 % interval; None: it has none.
        high: The same.
        bound: How far binning may have moved it.
    """

    value: float
    low: float | None = None
    high: float | None = None
    bound: float = 0.0


def minus(one: Estimate, other: Estimate) -> Estimate:
    """Return ``one - other``, with an interval as of independent films if both have one.

    Both models are scored on the same films, but counts by bin do not tell which film is which.
    Where the models tend to be right about the same films, as good ones do, their AUCs rise and
    fall together, so that the interval is wider than it need be: conservative.

    Source: square-and-add, Zou and Donner, Statistics in Medicine 2008; it needs no symmetric
    intervals, and keeps the ends within -1 and 1.
    """
    value, bound = one.value - other.value, one.bound + other.bound
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return Estimate(value, bound=bound)
    return Estimate(
        value,
        value - math.hypot(one.value - one.low, other.high - other.value),
        value + math.hypot(one.high - one.value, other.value - other.low),
        bound,
    )


def mean_of(estimates: Mapping[str, Estimate]) -> Estimate | None:
    """Return the mean over findings, with an interval that errs on the wide side.

    How the findings' numbers depend on each other is not known from counts; the standard deviation
    of a mean is never above the mean of the standard deviations. None of nothing; no interval where
    a finding has none.
    """
    found = list(estimates.values())
    if not found:
        return None
    value = sum(each.value for each in found) / len(found)
    bound = sum(each.bound for each in found) / len(found)
    lows = [each.low for each in found if each.low is not None]
    highs = [each.high for each in found if each.high is not None]
    if not len(lows) == len(highs) == len(found):
        return Estimate(value, bound=bound)
    return Estimate(value, sum(lows) / len(lows), sum(highs) / len(highs), bound)


def estimates_of(by_finding: Mapping[str, FindingAuc]) -> dict[str, Estimate]:
    """Return the defined AUCs, by finding."""
    return {
        finding: Estimate(of.auc, of.low, of.high, of.bound or 0.0)
        for finding, of in by_finding.items()
        if of.auc is not None
    }


def differences(
    one: Mapping[str, FindingAuc], other: Mapping[str, FindingAuc]
) -> dict[str, Estimate]:
    """Return ``one - other`` of the findings that both have, and of their means."""
    first, second = estimates_of(one), estimates_of(other)
    found = {name: minus(first[name], second[name]) for name in first if name in second}
    mean = mean_of(found)
    return found if mean is None else {**found, MEAN: mean}
