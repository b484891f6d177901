"""Differences between the AUCs of two models on the same films, from counts by bin alone.

Which film is which cannot be seen in counts. Intervals of differences are therefore those of models
that were scored on different films. Two models tend to be right about the same films, so that their
AUCs rise and fall together and the intervals are wider than they need be: conservative.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from common.readings import FindingAuc

MEAN = "mean"
"""Stands in a finding's place for the mean over the findings."""


class Estimate(NamedTuple):
    """An AUC, or the difference of two.

    Attributes:
        value: The number.
        low: Of its 95 % interval; None: it has none.
        high: The same.
        bound: How far binning may have moved the number.
    """

    value: float
    low: float | None = None
    high: float | None = None
    bound: float = 0.0


def estimate_of(auc: FindingAuc) -> Estimate | None:
    """Return a finding's AUC; None: it is not defined."""
    return None if auc.auc is None else Estimate(auc.auc, auc.low, auc.high, auc.bound or 0.0)


def minus(one: Estimate, other: Estimate) -> Estimate:
    """Return ``one - other``, with an interval as of independent films if both have one.

    Source: square-and-add, Zou and Donner, Statistics in Medicine 2008; it keeps the ends within
    -1 and 1 and needs no symmetric intervals.
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


def mean_interval(by_finding: Mapping[str, FindingAuc]) -> tuple[float, float] | None:
    """Return a 95 % interval of the mean over the findings, which errs on the wide side.

    The findings' AUCs are of the same films, in a way that is not known from here; the standard
    deviation of a mean is never above the mean of the standard deviations. A finding with too few
    films for an interval of its own may be anything from 0 to 1.
    """
    defined = [of for of in by_finding.values() if of.auc is not None]
    if not any(of.low is not None for of in defined):
        return None
    low = sum(0.0 if of.low is None else of.low for of in defined) / len(defined)
    high = sum(1.0 if of.high is None else of.high for of in defined) / len(defined)
    return low, high


def mean_of(by_finding: Mapping[str, FindingAuc]) -> Estimate | None:
    """Return the mean over the findings that have an AUC; None: there are none."""
    found = [e for of in by_finding.values() if (e := estimate_of(of)) is not None]
    if not found:
        return None
    value = sum(each.value for each in found) / len(found)
    bound = sum(each.bound for each in found) / len(found)
    low, high = mean_interval(by_finding) or (None, None)
    return Estimate(value, low, high, bound)


def differences(
    one: Mapping[str, FindingAuc], other: Mapping[str, FindingAuc]
) -> dict[str, Estimate]:
    """Return ``one - other`` of the findings that both have."""
    found = {}
    for finding in one:
        first, second = estimate_of(one[finding]), estimate_of(other[finding])
        if first is not None and second is not None:
            found[finding] = minus(first, second)
    return found


def mean_difference(
    one: Mapping[str, FindingAuc], other: Mapping[str, FindingAuc]
) -> Estimate | None:
    """Return the difference of the means over the findings that both have; None: there are none."""
    both = differences(one, other).keys()
    first, second = (mean_of({finding: of[finding] for finding in both}) for of in (one, other))
    return None if first is None or second is None else minus(first, second)
