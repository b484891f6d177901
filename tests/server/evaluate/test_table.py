"""Intervals of differences, and the table for people."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.histograms import histograms_of, total
from common.readings import aucs_of, pooled
from common.scores import Scores
from server.evaluate.differences import MEAN, Estimate, differences, mean_of, minus
from server.evaluate.records import HospitalScores, ScoredModel
from server.evaluate.table import table_of, text_of
from server.run.histograms import write_histograms
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
    for column, (finding, row) in enumerate(list(found.items())[:14]):
        known = labels[:, column] < 2
        margin = paired_margin(labels[known, column], one[known, column], other[known, column])
        assert row.low is not None, finding
        assert row.high is not None
        assert row.low < row.value - margin
        assert row.high > row.value + margin
    mean = found[MEAN]
    assert mean.value == pytest.approx(np.mean([found[name].value for name in list(found)[:14]]))


SHARE = st.floats(0, 1)


@given(st.tuples(SHARE, SHARE, SHARE).map(sorted), st.tuples(SHARE, SHARE, SHARE).map(sorted))
def test_a_difference_and_its_interval_stay_within_one(
    one: list[float], other: list[float]
) -> None:
    first, second = (Estimate(middle, low, high) for low, middle, high in (one, other))
    found = minus(first, second)
    assert found.low is not None
    assert found.high is not None
    assert -1 - 1e-9 <= found.low <= found.value <= found.high <= 1 + 1e-9
    back = minus(second, first)
    assert (back.value, back.low, back.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )


def test_a_mean_has_an_interval_only_if_every_finding_has_one() -> None:
    assert mean_of({}) is None
    some = {"a": Estimate(0.6, 0.5, 0.7), "b": Estimate(0.8, 0.75, 0.9)}
    assert mean_of(some) == pytest.approx((0.7, 0.625, 0.8, 0))
    mean = mean_of({**some, "c": Estimate(0.7, bound=0.03)})
    assert mean is not None
    assert (mean.value, mean.bound) == pytest.approx((0.7, 0.01))
    assert (mean.low, mean.high) == (None, None)


def test_the_table_fits_a_terminal_and_subtracts_on_the_same_films_alone(tmp_path: Path) -> None:
    names = [f"hospital-{number:02d}" for number in range(10)]
    scored = []
    for number in (1, 2):
        there = names if number == 1 else names[:9]
        told = {name: histograms_of(*some_films(60 * number, i)) for i, name in enumerate(there)}
        write_histograms(tmp_path, number, told)
        summed = total(told.values())
        assert summed is not None
        scored.append(
            ScoredModel(
                number=number,
                file=f"{number}.pt",
                origin="fedavg",
                sha256="0" * 64,
                hospitals={
                    name: HospitalScores(
                        scores=Scores(
                            images=60,
                            loss=0.3,
                            auc=0.5,
                            auc_by_finding={n: a.auc for n, a in aucs_of(of).items()},
                        ),
                        findings=aucs_of(of),
                    )
                    for name, of in told.items()
                },
                rejected={},
                missing=names[len(there) :],
                pooled=pooled(summed),
                test=None,
            )
        )
    table = table_of(tmp_path, "run", 5, scored)
    lines = list(text_of(table, 80))
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert all(text.count(name) >= 2 for name in names)
    assert "  not in it: hospital-09: no answer" in lines
    assert len(list(text_of(table, 170))) < len(lines)
    ends = [row for row in table.rows if row.kind == "difference"]
    common = [
        total(histograms_of(*some_films(60 * number, i)) for i in range(9)) for number in (2, 1)
    ]
    expected = differences(*(aucs_of(each) for each in common if each is not None))
    assert {row.finding: row.value for row in ends} == {n: e.value for n, e in expected.items()}
    exact = [row.model_copy(update={"bound": None}) for row in table.rows]
    exact[-1] = exact[-1].model_copy(update={"bound": 0.01})
    marked = text_of(table.model_copy(update={"rows": exact}), 80)
    assert [line.split()[0] for line in marked if "~" in line] == ["mean", "~:"]
