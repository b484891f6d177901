from hypothesis import given
from hypothesis import strategies as st

from server.watch.drawing import LEVELS, bar, sparkline


@given(st.lists(st.none() | st.floats(0, 1), max_size=300), st.integers(1, 60))
def test_a_sparkline_is_as_wide_as_it_may_be_and_has_least_and_largest(
    values: list[float | None], width: int
) -> None:
    line = sparkline(values, width).plain
    known = [value for value in values if value is not None]
    if not known:
        assert line == ""
        return
    assert len(line) == min(len(values), width)
    assert set(line) <= {*LEVELS, " "}
    if len(values) <= width:
        assert [character == " " for character in line] == [value is None for value in values]
        if min(known) < max(known):
            assert line[values.index(min(known))] == LEVELS[0]
            assert line[values.index(max(known))] == LEVELS[-1]


@given(st.floats(0, 1), st.integers(1, 60))
def test_a_bar_is_full_when_all_is_done_and_not_before(share: float, width: int) -> None:
    drawn = bar(share, width).plain
    assert len(drawn) == width
    assert (drawn == "█" * width) == (share == 1)
