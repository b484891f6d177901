"""Differences between runs: their intervals, and what may be subtracted at all."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from common.findings import FINDINGS
from server.report.compare import what_differs
from server.report.page import chapters_of, read_runs
from server.report.pairs import (
    Pair,
    hospital_pairs,
    mean_of_pairs,
    obstacles,
    pooled_differences,
    test_differences,
)
from tests.support.reports import cells, recorded_run, tables_of

test_differences.__test__ = False  # type: ignore[attr-defined]

OF_SEVERAL = {"runs-auc", "runs-findings", "runs-differences", "runs-hospitals"}


def test_figures_of_runs_whose_names_look_alike_have_names_of_their_own(tmp_path: Path) -> None:
    names = {"a": "probe a", "b": "probe-a", "c": "runs"}
    folders = [
        recorded_run(tmp_path / part, rounds=1, run_id=part * 12, name=name)
        for part, name in names.items()
    ]
    figures = [plot.name for each in chapters_of(read_runs(folders)) for plot in each.plots]
    assert len(set(figures)) == len(figures)
    assert {f"probe-a-{'a' * 12}-auc", f"probe-a-{'b' * 12}-auc", "runs-auc"} <= set(figures)


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
    chapters = chapters_of(read)
    names = ["same name (0123456789ab)", f"same name ({'b' * 12})", "c" * 12]
    assert [run.name for run in read] == names
    assert [chapter.title for chapter in chapters] == [
        f"3 runs: {', '.join(names)}",
        *(f"Run {name}" for name in names),
    ]
    tables = tables_of(chapters)
    assert tables.keys() > OF_SEVERAL
    assert len(tables) == len(OF_SEVERAL) + 3 * 13
    top = chapters[0].top
    assert f"{names[2]} and {names[0]}: their seeds differ (5, 6)" in top
    assert f"{names[2]} and {names[0]}: their test films are not the same" in top
    assert f"{names[1]} and {names[0]}: they have done 3 and 2 rounds" in top
    assert ["seed", "5", "5", "6"] in cells(what_differs(read))
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


@given(st.lists(st.floats(0, 1), min_size=3, max_size=12))
def test_hospitals_have_students_interval(others: list[float]) -> None:
    pairs = {str(i): Pair(0.5, other, 14, (9, 9)) for i, other in enumerate(others)}
    found = mean_of_pairs(pairs)
    assert found is not None
    differences = np.array(others) - 0.5
    if differences.std() > 1e-6:
        expected = ttest_1samp(differences, 0).confidence_interval(0.95)
        ends = pytest.approx((expected.low, expected.high), abs=1e-9)
        assert (found.low, found.high) == ends
    two = mean_of_pairs(dict(list(pairs.items())[:2]))
    assert two is not None
    assert two.low is None
