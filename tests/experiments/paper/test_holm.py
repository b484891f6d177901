import pytest

from experiments.paper.holm import holm


def test_holm_by_hand() -> None:
    # Smallest first: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1; the last may not fall below 0.06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.3, 0.9, 0.01]) == pytest.approx([0.6, 0.9, 0.03])
    assert holm([0.8, 0.7]) == [1, 1]
    assert holm([]) == []
