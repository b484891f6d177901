"""Differences between runs: their intervals, and what may be subtracted at all."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from common.findings import FINDINGS
from common.readings import FindingAuc
from server.report.curves import mean_interval
from server.report.page import chapters_of, page_of, read_runs
from server.report.pairs import (
    Estimate,
    Pair,
    hospital_pairs,
    mean_of_pairs,
    minus,
    obstacles,
    pooled_differences,
    test_differences,
)
from tests.support.pages import rows_of
from tests.support.reports import Figures, recorded_run

test_differences.__test__ = False  # type: ignore[attr-defined]

OF_SEVERAL = {"runs-auc", "runs-findings", "runs-differences", "runs-hospitals"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of the same hospitals and seed, and one of another seed and test shard."""
    root = tmp_path_factory.mktemp("runs")
    return [
        recorded_run(root / "a", name="same name"),
        recorded_run(root / "b", rounds=2, run_id="b" * 12, name="same name"),
        recorded_run(root / "c", rounds=1, seed=6, run_id="c" * 12, test_sha256="b" * 64),
    ]


def test_several_runs_stand_side_by_side(runs: list[Path]) -> None:
    read = read_runs(runs)
    text = page_of(chapters_of(read))
    names = ["same name (0123456789ab)", f"same name ({'b' * 12})", "c" * 12]
    assert [run.name for run in read] == names
    rows = rows_of(text)
    assert f"<h1>3 runs: {', '.join(names)}</h1>" in text
    assert rows["seed"] == ["6"]  # of the last run's own configuration
    tables = Figures(text).tables
    assert tables.keys() > OF_SEVERAL
    assert len(tables) == len(OF_SEVERAL) + 3 * 13
    assert f"{names[2]} and {names[0]}: their seeds differ (5, 6)" in text
    assert f"{names[2]} and {names[0]}: their test films are not the same" in text
    assert f"{names[1]} and {names[0]}: they have done 3 and 2 rounds" in text
    first, second, _ = read
    assert first.last.test is not None
    assert second.last.test is not None
    for finding, row in zip(FINDINGS, tables["runs-differences"][1::2], strict=False):
        a, b = (run.last.test.auc_by_finding[finding] for run in (first, second) if run.last.test)
        assert row[:2] == [finding.replace("_", " "), names[1]]
        assert row[2] == ("-" if a is None or b is None else f"{b - a:+.3f}")
    third = [row for row in tables["runs-differences"] if row[1] == names[2]]
    assert {row[2] for row in third} == {"-"}  # of other test films


def test_what_makes_runs_incomparable_is_said(runs: list[Path]) -> None:
    first, second, third = read_runs(runs)
    assert obstacles(first, second) == ["they have done 3 and 2 rounds"]
    assert test_differences(first, third) == {}
    assert len(obstacles(first, third)) >= 3


def test_a_run_differs_from_itself_by_nothing(runs: list[Path]) -> None:
    run = read_runs(runs)[0]
    assert obstacles(run, run) == []
    assert set(test_differences(run, run).values()) == {0.0}
    differences = pooled_differences(run, run)
    assert {of.value for of in differences.values()} == {0.0}
    assert all(of.low is None or of.low < 0 for of in differences.values())
    pairs = hospital_pairs(run, run)
    assert pairs
    mean = mean_of_pairs(pairs)
    assert mean is not None
    assert mean.value == 0


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


@given(st.lists(st.floats(0, 1), min_size=3, max_size=12))
def test_hospitals_have_students_interval(others: list[float]) -> None:
    pairs = {str(i): Pair(0.5, other, 14, (9, 9)) for i, other in enumerate(others)}
    found = mean_of_pairs(pairs)
    assert found is not None
    differences = np.array(others) - 0.5
    if differences.std() > 1e-6:
        expected = ttest_1samp(differences, 0).confidence_interval(0.95)
        assert found[1:] == pytest.approx((expected.low, expected.high), abs=1e-9)
    two = mean_of_pairs(dict(list(pairs.items())[:2]))
    assert two is not None
    assert two.low is None
