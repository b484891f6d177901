"""What is read from histograms, against slow references on the logits themselves."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from common.findings import FINDINGS, UNKNOWN
from common.histograms import BINS, CENTRES, Counts, Histograms, histograms_of, total
from common.readings import (
    FEW,
    auc_of,
    binning_bound,
    calibration,
    delong_interval,
    finding_auc,
    operating_points,
    pooled,
    roc_points,
    sensitive,
    youden,
)
from tests.support.histograms import some_films

Floats = npt.NDArray[np.float64]

NOTHING = np.zeros(BINS, np.int64)


def rows(positives: npt.NDArray[Any], negatives: npt.NDArray[Any]) -> tuple[Counts, Counts]:
    """Return a finding's two histograms of these logits."""
    logits = np.concatenate([positives, negatives])
    labels = np.repeat([1, 0], [len(positives), len(negatives)]).astype(np.uint8)
    shape = (len(logits), len(FINDINGS))
    found = histograms_of(
        np.broadcast_to(labels[:, None], shape), np.broadcast_to(logits[:, None], shape)
    )
    return found.of("Mass")


def slow_delong(positives: Floats, negatives: Floats) -> tuple[float, float]:
    """Return AUC and variance as DeLong et al. write them, pair by pair."""
    wins = np.sign(positives[:, None] - negatives[None, :]) / 2 + 0.5
    auc = wins.mean()
    of_positives, of_negatives = wins.mean(axis=1), wins.mean(axis=0)
    variance = ((of_positives - auc) ** 2).sum() / max(len(positives) - 1, 1) / len(positives)
    variance += ((of_negatives - auc) ** 2).sum() / max(len(negatives) - 1, 1) / len(negatives)
    return auc, variance


LOGITS = st.lists(
    st.integers(-20, 20).map(float) | st.floats(-20, 20) | st.just(0.0), min_size=1, max_size=60
).map(np.array)
FILMS = st.integers(0, 2**32 - 1), st.integers(1, 80), st.floats(0.01, 8)


@settings(deadline=None, max_examples=150)
@given(LOGITS, LOGITS)
def test_the_bound_bounds_the_error_of_binning(positives: Floats, negatives: Floats) -> None:
    told = rows(positives, negatives)
    auc, bound = auc_of(*told), binning_bound(*told)
    assert auc is not None
    assert bound is not None
    exact, _ = slow_delong(positives, negatives)

    assert abs(auc - exact) <= bound + 1e-12


def test_the_bound_is_reached() -> None:
    told = rows(np.array([0.02, 3]), np.array([0.01, -3]))
    assert auc_of(*told) == pytest.approx(1 - 1 / 8)
    assert binning_bound(*told) == pytest.approx(1 / 8)


@settings(deadline=None, max_examples=150)
@given(LOGITS, LOGITS)
def test_auc_and_interval_are_those_of_scores_with_ties(
    positives: Floats, negatives: Floats
) -> None:
    told = rows(positives, negatives)
    binned = [np.repeat(CENTRES, counts) for counts in told]
    auc, variance = slow_delong(*binned)
    labels = np.repeat([1, 0], [len(each) for each in binned])
    assert auc_of(*told) == pytest.approx(auc, abs=1e-12)
    assert auc_of(*told) == pytest.approx(roc_auc_score(labels, np.concatenate(binned)), abs=1e-12)
    interval = delong_interval(*told)
    if min(map(len, binned)) < FEW or variance < 1e-15:
        assert interval is None
    else:
        margin = 1.959963984540054 * math.sqrt(variance)
        assert interval == pytest.approx((max(0, auc - margin), min(1, auc + margin)), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(*FILMS)
def test_the_pooled_auc_is_that_of_all_films(seed: int, films: int, spread: float) -> None:
    """Three hospitals, one of which has no film without Hernia and none with Mass."""
    hospitals = [some_films(films, seed + number, spread) for number in range(3)]
    for finding, label in (("Hernia", 0), ("Mass", 1)):
        column = hospitals[1][0][:, FINDINGS.index(finding)]
        column[column == label] = UNKNOWN
    summed = total(histograms_of(*hospital) for hospital in hospitals)
    assert summed is not None
    labels, logits = (np.concatenate(parts) for parts in zip(*hospitals, strict=True))
    result = pooled(summed)
    defined = []
    for row, finding in enumerate(FINDINGS):
        positives, negatives = (
            logits[labels[:, row] == label, row].astype(np.float64) for label in (1, 0)
        )
        found = result.by_finding[finding]
        assert (found.positives, found.negatives) == (len(positives), len(negatives))
        if not len(positives) or not len(negatives):
            assert (found.auc, found.low, found.high, found.bound) == (None,) * 4
            continue
        assert found.auc is not None
        assert found.bound is not None
        defined.append(found.auc)
        exact, variance = slow_delong(positives, negatives)
        assert abs(found.auc - exact) <= found.bound + 1e-12
        if found.low is not None and 0.1 < exact < 0.9 and min(len(positives), len(negatives)) > 50:
            margin = 1.96 * math.sqrt(variance)
            assert found.low == pytest.approx(exact - margin, abs=0.01)
    assert result.auc == (pytest.approx(np.mean(defined)) if defined else None)


def test_what_is_undefined_is_none() -> None:
    some = rows(np.arange(5.0), np.arange(5.0))[0]
    for positives, negatives in ((NOTHING, NOTHING), (some, NOTHING), (NOTHING, some)):
        told = finding_auc(positives, negatives)
        assert (told.auc, told.low, told.high, told.bound) == (None,) * 4
        for read in (operating_points, roc_points, youden, sensitive):
            assert read(positives, negatives) is None
    assert calibration(NOTHING, NOTHING) is None


def test_few_films_and_perfect_ones_have_an_auc_and_no_interval() -> None:
    few = finding_auc(*rows(np.arange(4.0), np.arange(100.0)))
    assert few.auc is not None
    assert (few.low, few.high, few.positives) == (None, None, 4)
    perfect = finding_auc(*rows(np.arange(1.0, 13), np.arange(-12.0, 0)))
    assert (perfect.auc, perfect.low, perfect.high) == (1.0, None, None)


@settings(deadline=None, max_examples=50)
@given(LOGITS, LOGITS)
def test_the_curve_and_its_thresholds_are_those_of_scikit_learn(
    positives: Floats, negatives: Floats
) -> None:
    told = rows(positives, negatives)
    binned = np.concatenate([np.repeat(CENTRES, counts) for counts in told])
    labels = np.repeat([1, 0], [len(positives), len(negatives)])
    x, y, _ = roc_curve(labels, binned, drop_intermediate=False)
    curve = roc_points(*told)
    assert curve is not None
    ours = set(zip(curve[0].round(9), curve[1].round(9), strict=True))
    assert ours == set(zip(x.round(9), y.round(9), strict=True))
    assert (np.diff(curve[0]) > -1e-12).all()
    assert np.trapezoid(curve[1], curve[0]) == pytest.approx(auc_of(*told), abs=1e-9)
    points = operating_points(*told)
    assert points is not None
    assert [point.threshold for point in points] == pytest.approx(np.linspace(14, -14, 513))
    for point in points[::40]:
        called = binned >= point.threshold
        assert point.sensitivity == pytest.approx(called[labels == 1].mean())
        assert point.specificity == pytest.approx(1 - called[labels == 0].mean())
    best, enough = youden(*told), sensitive(*told)
    assert best is not None
    assert enough is not None
    assert best.sensitivity + best.specificity - 1 == pytest.approx((y - x).max())
    assert enough.sensitivity >= 0.9
    assert enough.specificity == pytest.approx(1 - x[y >= 0.9].min())


def test_of_thresholds_that_do_alike_youdens_is_in_the_middle() -> None:
    point = youden(*rows(np.full(5, 4.0), np.full(5, -2.0)))
    assert point is not None
    assert point.threshold == pytest.approx(1, abs=0.1)
    assert (point.sensitivity, point.specificity) == (1, 1)


@settings(deadline=None, max_examples=50)
@given(LOGITS, LOGITS)
def test_calibration_against_film_by_film(positives: Floats, negatives: Floats) -> None:
    told = rows(positives, negatives)
    found = calibration(*told)
    assert found is not None
    groups: dict[int, list[tuple[float, int]]] = {}
    for label, counts in zip((1, 0), told, strict=True):
        for logit in np.repeat(CENTRES, counts):
            probability = 1 / (1 + math.exp(-logit))
            groups.setdefault(min(int(probability * 10), 9), []).append((probability, label))
    films = [len(groups[group]) for group in sorted(groups)]
    predicted, observed = (
        [sum(film[i] for film in groups[group]) / len(groups[group]) for group in sorted(groups)]
        for i in (0, 1)
    )
    assert found.films == films
    assert found.predicted == pytest.approx(predicted)
    assert found.observed == pytest.approx(observed)
    assert found.error == pytest.approx(
        sum(n * abs(o - p) for n, o, p in zip(films, observed, predicted, strict=True)) / sum(films)
    )


def test_a_model_that_tells_the_truth_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 2, 200_000)
    labels = rng.random(len(logits)) < 1 / (1 + np.exp(-logits))
    told = calibration(*rows(logits[labels], logits[~labels]))
    shifted = calibration(*rows(logits[labels] + 2, logits[~labels] + 2))
    assert told is not None
    assert shifted is not None
    assert told.error < 0.005
    assert shifted.error > 0.1


def test_no_reading_overflows_with_the_most_films_of_many_hospitals() -> None:
    counts = np.zeros((2, len(FINDINGS), BINS), np.int64)
    counts[:, :, 0] = counts[:, :, -1] = 2**35
    told = pooled(Histograms(*counts))
    assert told.auc == pytest.approx(0.5)
    assert told.by_finding["Mass"].bound == pytest.approx(0.25)
    assert told.by_finding["Mass"].low == pytest.approx(0.5, abs=1e-4)
