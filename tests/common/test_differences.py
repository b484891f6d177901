"""Differences of AUCs, and what their intervals may claim."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.differences import Estimate, differences, mean_difference, mean_interval, minus
from common.histograms import histograms_of
from common.readings import FindingAuc, aucs_of
from tests.support.histograms import some_films

Floats = npt.NDArray[np.floating]


def paired_margin(labels: npt.NDArray[np.uint8], one: Floats, other: Floats) -> float:
    """Return DeLong's 95 % margin of a difference on the same films, from every pair of films."""

    def wins(scores: Floats) -> Floats:
        having, without = scores[labels == 1, None], scores[None, labels == 0]
        return np.asarray((having > without) + 0.5 * (having == without))

    difference = wins(one) - wins(other)
    variance = sum(
        difference.mean(axis=axis).var(ddof=1) / difference.shape[1 - axis] for axis in (0, 1)
    )
    return 1.96 * math.sqrt(variance)


def test_the_interval_of_a_difference_is_wider_than_one_that_knows_the_pairs() -> None:
    labels, one = some_films(400, 3)
    other = one + np.random.default_rng(4).normal(0, 0.7, one.shape).astype(np.float32)
    found = differences(*(aucs_of(histograms_of(labels, logits)) for logits in (one, other)))
    for column, (finding, row) in enumerate(found.items()):
        known = labels[:, column] < 2
        margin = paired_margin(labels[known, column], one[known, column], other[known, column])
        assert row.low is not None, finding
        assert row.high is not None
        assert row.low < row.value - margin
        assert row.high > row.value + margin


shares = st.floats(0, 1)


@st.composite
def estimates(draw: st.DrawFn) -> Estimate:
    low, value, high = sorted(draw(st.tuples(shares, shares, shares)))
    return Estimate(value, low, high)


@given(estimates(), estimates())
def test_a_difference_has_an_interval_around_it_and_turns_with_its_sign(
    one: Estimate, other: Estimate
) -> None:
    there, back = minus(one, other), minus(other, one)
    assert there.low is not None
    assert there.high is not None
    assert -1 <= there.low <= there.value <= there.high <= 1 or math.isclose(there.low, -1)
    assert (back.value, back.low, back.high) == (-there.value, -there.high, -there.low)


@given(shares, shares, st.floats(0, 0.2), st.floats(0, 0.2))
def test_symmetric_intervals_add_as_the_variances_of_independent_numbers_do(
    a: float, b: float, half_a: float, half_b: float
) -> None:
    found = minus(Estimate(a, a - half_a, a + half_a), Estimate(b, b - half_b, b + half_b))
    assert found.high is not None
    assert found.high - found.value == pytest.approx(math.sqrt(half_a**2 + half_b**2), abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 14))
def test_the_interval_of_a_mean_holds_however_the_findings_hang_together(
    seed: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(count, count)) * rng.uniform(0, 0.05, (count, 1))
    covariance = root @ root.T  # any covariance matrix at all
    halves = 1.96 * np.sqrt(np.diag(covariance))
    found = mean_interval(
        {
            str(i): FindingAuc(
                auc=0.5,
                low=max(0.0, 0.5 - half),
                high=min(1.0, 0.5 + half),
                bound=0,
                positives=9,
                negatives=9,
            )
            for i, half in enumerate(halves)
        }
    )
    assert found is not None
    true_half = 1.96 * math.sqrt(covariance.sum()) / count
    assert found[1] >= min(0.5 + true_half, 1.0) - 1e-9 or (halves > 0.5).any()


def test_a_finding_of_few_films_may_be_anything_in_a_mean() -> None:
    sure = FindingAuc(auc=0.8, low=0.7, high=0.9, bound=0, positives=50, negatives=50)
    few = FindingAuc(auc=1.0, low=None, high=None, bound=0, positives=2, negatives=50)
    none = FindingAuc(auc=None, low=None, high=None, bound=None, positives=0, negatives=50)
    assert mean_interval({"a": sure, "b": few, "c": none}) == pytest.approx((0.35, 0.95))
    assert mean_interval({"b": few, "c": none}) is None


def test_means_are_compared_over_the_findings_that_both_have() -> None:
    def auc(value: float | None) -> FindingAuc:
        return FindingAuc(auc=value, low=None, high=None, bound=0.03, positives=9, negatives=9)

    one = {"a": auc(0.6), "b": auc(0.8), "c": auc(None)}
    found = mean_difference(one, {"a": auc(None), "b": auc(0.7), "c": auc(0.7)})
    assert found is not None
    assert (found.value, found.bound) == pytest.approx((0.1, 0.06))
    assert mean_difference(one, {"a": auc(None), "b": auc(None), "c": auc(0.7)}) is None
