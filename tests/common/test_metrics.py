import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.findings import FINDINGS, UNKNOWN
from common.metrics import auc_by_finding
from common.scores import mean_auc, weighted_auc


def slow_auc(labels: list[int], scores: list[float]) -> float | None:
    """The share of (ill, well) pairs in the right order; ties count half, unknown not at all."""
    pairs = [
        (a, b)
        for a, ill in zip(scores, labels, strict=True)
        if ill == 1
        for b, also_ill in zip(scores, labels, strict=True)
        if also_ill == 0
    ]
    if not pairs:
        return None
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)


@given(
    hnp.arrays(np.uint8, (9, 14), elements=st.sampled_from([0, 1, UNKNOWN])),
    hnp.arrays(np.float32, (9, 14), elements=st.integers(-3, 3).map(float)),
)
def test_auc_is_the_share_of_ordered_pairs(labels: np.ndarray, scores: np.ndarray) -> None:
    found = auc_by_finding(labels, scores)
    for i, finding in enumerate(FINDINGS):
        expected = slow_auc(labels[:, i].tolist(), scores[:, i].tolist())
        assert found[finding] == (None if expected is None else pytest.approx(expected))


def test_one_class_alone_is_undefined_and_left_out_of_the_mean() -> None:
    labels = np.zeros((4, 14), np.uint8)
    labels[:, 0] = 1
    labels[:2, 2] = 1
    scores = np.tile(np.array([[4.0], [3], [2], [1]], np.float32), 14)
    found = auc_by_finding(labels, scores)
    assert found.pop("Effusion") == 1
    assert set(found.values()) == {None}
    assert mean_auc({**found, "Effusion": 1.0}) == 1
    assert mean_auc(found) is None


def test_the_mean_over_hospitals_is_weighted_where_defined() -> None:
    none = dict.fromkeys(FINDINGS)
    found = weighted_auc([(30, {**none, "Mass": 0.9}), (10, {**none, "Mass": 0.5}), (99, none)])
    assert found["Mass"] == pytest.approx(0.8)
    assert found["Hernia"] is None
