import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score

from common.bootstrap import (
    DRAWS,
    LEAST_POSITIVES,
    Bootstrap,
    Estimate,
    Films,
    weighted_auc,
)
from common.findings import UNKNOWN


def slow_auc(positive: Any, scores: Any, patient: Any, times: Any) -> float:
    """The AUC of one draw: films repeated as often as their patient was drawn."""
    films = np.repeat(np.arange(len(scores)), times[patient].astype(int))
    if len(set(positive[films])) < 2:
        return np.nan
    return float(roc_auc_score(positive[films], scores[films]))


def drawn_films(films: int = 400, patients: int = 40, seed: int = 0) -> Films:
    rng = np.random.default_rng(seed)
    labels = (rng.random((films, 14)) < 0.2).astype(np.uint8)
    labels[:, 13] = 0
    labels[: LEAST_POSITIVES - 1, 13] = 1
    return Films(labels, [f"p{i}" for i in rng.integers(0, patients, films)])


def scores_with(films: Films, signal: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=films.labels.shape)
    return (signal * films.labels + noise).astype(np.float16)


@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(
            hnp.arrays(bool, n),
            hnp.arrays(np.float16, n, elements=st.sampled_from([-np.inf, -1, 0, 0.5, 2, np.inf])),
            hnp.arrays(np.intp, n, elements=st.integers(0, 4)),
        )
    ),
    hnp.arrays(np.float64, (6, 5), elements=st.integers(0, 4).map(float)),
)
def test_a_draw_is_the_auc_of_repeated_films(films: Any, times: np.ndarray) -> None:
    positive, scores, patient = films
    found = weighted_auc(positive, scores, patient, times)
    finite = np.clip(scores.astype(float), -9, 9)  # scikit-learn refuses infinities
    expected = [slow_auc(positive, finite, patient, row) for row in times]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_more_draws_than_a_block() -> None:
    films = drawn_films()
    scores = scores_with(films, 1, 1)
    bootstrap = Bootstrap(films, seed=3, draws=300)
    found = bootstrap.auc_by_finding(scores)
    assert found.shape == (301, 14)
    for draw in (0, 1, 127, 128, 129, 300):
        expected = slow_auc(
            films.labels[:, 5], scores[:, 5], bootstrap.patient, bootstrap.times[draw]
        )
        assert found[draw, 5] == pytest.approx(expected, abs=1e-12)


def test_draws_are_of_patients_and_the_same_for_all() -> None:
    films = drawn_films()
    bootstrap = Bootstrap(films, seed=3, draws=50)
    patients = len(set(films.patients))
    assert bootstrap.times.shape == (51, patients)
    assert (bootstrap.times[0] == 1).all()
    assert (bootstrap.times.sum(axis=1) == patients).all()
    assert (Bootstrap(films, seed=3, draws=50).times == bootstrap.times).all()
    assert (Bootstrap(films, seed=4, draws=50).times != bootstrap.times).any()
    scores = scores_with(films, 1, 1)
    estimate = bootstrap.difference(
        {1: bootstrap.mean_auc(scores)}, {1: bootstrap.mean_auc(2 * scores)}
    )
    assert estimate == Estimate(0, 0, 0, p=1, seeds=1, seeds_resampled=False)


def test_a_copied_film_of_a_patient_adds_no_certainty() -> None:
    films = drawn_films(200, 200)
    scores = scores_with(films, 0.5, 1)
    copied = Films(np.tile(films.labels, (4, 1)), list(films.patients) * 4)
    one = Bootstrap(films, seed=1).mean_auc(scores)
    four = Bootstrap(copied, seed=1).mean_auc(np.tile(scores, (4, 1)))
    # Hernia has 19 positives in one copy, and would count in four.
    assert films.counted.tolist() == [True] * 13 + [False]
    copied_alike = Bootstrap(copied, seed=1).auc_by_finding(np.tile(scores, (4, 1)))[:, :13]
    np.testing.assert_allclose(copied_alike.mean(axis=1), one, atol=1e-12)
    assert copied.counted.all()
    assert four.std() == pytest.approx(one.std(), rel=0.3)


def test_unknown_films_count_for_nothing() -> None:
    films = drawn_films()
    labels = films.labels.copy()
    labels[np.random.default_rng(5).random(labels.shape) < 0.4] = UNKNOWN
    labels[:, 12] = UNKNOWN
    some = Films(labels, films.patients)
    scores = scores_with(films, 1, 1)
    bootstrap = Bootstrap(some, seed=3, draws=20)
    found = bootstrap.auc_by_finding(scores)
    for finding, draw in ((5, 0), (5, 7), (9, 20)):
        known = labels[:, finding] != UNKNOWN
        expected = slow_auc(
            labels[known, finding], scores[known, finding], bootstrap.patient[known],
            bootstrap.times[draw],
        )  # fmt: skip
        assert found[draw, finding] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(found[:, 12]).all()
    assert some.counted.tolist() == [*[True] * 12, False, False]


def test_rare_findings_do_not_count() -> None:
    labels = np.zeros((60, 14), np.uint8)
    labels[:LEAST_POSITIVES, 0] = 1
    labels[: LEAST_POSITIVES - 1, 1] = 1
    films = Films(labels, [str(i) for i in range(60)])
    assert films.counted.tolist() == [True] + [False] * 13
    scores = np.zeros((60, 14), np.float16)
    scores[:, 0] = labels[:, 0]
    bootstrap = Bootstrap(films, seed=0, draws=10)
    assert bootstrap.mean_auc(scores)[0] == 1
    assert bootstrap.auc_by_finding(scores)[0, :2].tolist() == [1, 0.5]


def test_a_draw_leaves_out_what_is_undefined_in_it() -> None:
    labels = np.zeros((80, 14), np.uint8)
    labels[:20, 0] = 1  # all of patient a, and nobody else's
    labels[::2, 1] = 1
    films = Films(labels, ["a"] * 20 + ["b"] * 30 + ["c"] * 30)
    scores = np.random.default_rng(0).normal(size=(80, 14))
    bootstrap = Bootstrap(films, seed=0, draws=40)
    aucs = bootstrap.auc_by_finding(scores)
    a, means = bootstrap.times[:, 0], bootstrap.mean_auc(scores)
    without = (a == 0) | (a == 3)  # no film of patient a, or no other film
    assert without.any()
    assert not without.all()
    assert np.isnan(aucs[:, 0]).tolist() == without.tolist()
    np.testing.assert_allclose(means[without], aucs[without, 1])
    np.testing.assert_allclose(means[~without], aucs[~without, :2].mean(axis=1))


def test_nothing_counts() -> None:
    films = Films(np.zeros((5, 14), np.uint8), list("abcde"))
    bootstrap = Bootstrap(films, seed=0, draws=10)
    mean = bootstrap.mean_auc(np.zeros((5, 14)))
    assert np.isnan(mean).all()
    assert bootstrap.difference({0: mean}, {0: mean}) is None
    assert bootstrap.finding_estimates({0: bootstrap.auc_by_finding(np.zeros((5, 14)))}) == (
        [None] * 14
    )


def test_a_better_model_is_found_and_differences_are_paired_by_seed() -> None:
    films = drawn_films()
    bootstrap = Bootstrap(films, seed=0)
    good = {seed: bootstrap.mean_auc(scores_with(films, 1.5, seed)) for seed in (1, 2)}
    bad = {seed: bootstrap.mean_auc(scores_with(films, 0.5, seed)) for seed in (2, 3)}
    found = bootstrap.difference(good, bad)
    assert found is not None
    assert found.value == pytest.approx(float(good[2][0] - bad[2][0]))
    assert 0 < found.low < found.value < found.high
    assert found.p == pytest.approx(2 / (1 + DRAWS))
    assert (found.seeds, found.seeds_resampled) == (1, False)
    turned = bootstrap.difference(bad, good)
    assert turned is not None
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    assert bootstrap.difference({1: good[1]}, {3: bad[3]}) is None


def test_three_seeds_are_resampled_and_two_are_not() -> None:
    bootstrap = Bootstrap(drawn_films(), seed=0)
    constant = [np.full(1 + DRAWS, value) for value in (0.0, 0.3, 0.6)]
    two = Estimate.of(bootstrap.over_seeds(dict(enumerate(constant[:2]))), 2)
    three = Estimate.of(bootstrap.over_seeds(dict(enumerate(constant))), 3)
    assert two is not None
    assert three is not None
    assert (two.low, two.value, two.high) == pytest.approx((0.15, 0.15, 0.15))
    assert (three.low, three.value, three.high) == pytest.approx((0.0, 0.3, 0.6))
    assert not two.seeds_resampled
    assert three.seeds_resampled
    drawn = bootstrap.over_seeds(dict(enumerate(constant)))[1:]
    assert drawn.std() == pytest.approx(np.std([0, 0.3, 0.6], ddof=1) / 3**0.5, rel=0.05)
    again = bootstrap.over_seeds({seed: constant[seed] for seed in (2, 0, 1)})
    assert (again == bootstrap.over_seeds(dict(enumerate(constant)))).all()


def test_the_interval_and_p_of_known_draws() -> None:
    draws = np.concatenate([[0.5], np.arange(-10, 90) / 100, [np.nan]])
    found = Estimate.of(draws, 2)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((-0.1 + 0.02475, 0.89 - 0.02475))
    assert found.p == pytest.approx(2 * 12 / 101)  # 11 draws at 0 or below, and one
    assert Estimate.of(draws, 2, chance=1) == Estimate(
        found.value, found.low, found.high, 2 / 101, 2, False
    )


def test_estimates_by_finding_hold_the_true_value() -> None:
    films = drawn_films(600, 100)
    bootstrap = Bootstrap(films, seed=0)
    scores = {seed: scores_with(films, 1, seed) for seed in range(3)}
    found = bootstrap.finding_estimates(
        {seed: bootstrap.auc_by_finding(of_seed) for seed, of_seed in scores.items()}
    )
    first = found[0]
    assert first is not None
    expected = np.mean([roc_auc_score(films.labels[:, 0], s[:, 0]) for s in scores.values()])
    assert first.value == pytest.approx(expected)
    assert first.low < 0.76 < first.high  # of two normal distributions, one apart: 0.760
    assert first.p < 0.01


@pytest.mark.parametrize(
    ("scores", "message"),
    [(np.zeros((9, 14)), "labels"), (np.full((400, 14), np.nan), "NaN")],
)
def test_bad_scores_are_refused(scores: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bootstrap(drawn_films(), seed=0, draws=2).mean_auc(scores)


def test_films_without_a_patient_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows of labels, 2 patients"):
        Films(np.zeros((3, 14), np.uint8), ["a", "b"])


def test_a_grid_of_models_takes_seconds() -> None:
    films = drawn_films(1032, 53)
    bootstrap = Bootstrap(films, seed=0)
    scores = scores_with(films, 1, 0)
    start = time.process_time()
    bootstrap.mean_auc(scores)
    assert time.process_time() - start < 6  # twenty models: within two minutes
