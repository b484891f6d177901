"""How cost grows: fitted exponents, and the limits that follow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.growth import Series, draw, exponent, row, size_at
from benchmarks.growth_weights import Cost

SIZES = [10, 30, 100, 1000]


@given(st.floats(-1, 3), st.floats(1e-3, 1e3))
def test_a_power_law_has_its_exponent(power: float, factor: float) -> None:
    values = [factor * size**power for size in SIZES]
    assert exponent(SIZES, values) == pytest.approx(power, abs=1e-9)


def test_a_limit_is_on_the_line_through_the_last_two() -> None:
    values = [7.0, 2 + 0.5 * 30, 2 + 0.5 * 100, 2 + 0.5 * 1000]
    assert size_at(SIZES, values, 602) == pytest.approx(1200)
    assert size_at(SIZES, [4.0, 4.0, 4.0, 4.0], 600) == np.inf


def test_the_row_and_the_plot_tell_the_exponents() -> None:
    costs = [Cost(size / 10, 10**6 * size**2) for size in SIZES]
    series = Series("round", "hospitals", SIZES, costs)
    told = "| round | 10 to 1,000 hospitals | 1 to 100 | 1.00 | 100 to 1e+06 | 2.00 | 6,000 | 105 |"
    assert row(series) == told
    assert b"round: exponent 1.00" in draw([series])
