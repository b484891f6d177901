import pytest

from server.run.console import summary
from server.run.forecast import in_words, seconds_left
from tests.support.records import round_record


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (3 * 3600 + 5 * 60, "3 h 05 min"),
        (24 * 3600 - 1, "1 d 00 h"),
        (50 * 3600, "2 d 02 h"),
    ],
)
def test_a_duration_is_told_in_two_units(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_one_slow_round_does_not_change_the_estimate() -> None:
    assert seconds_left([], 10) is None
    assert seconds_left([10, 10, 10, 10, 1000], 10) == 50
    assert seconds_left([99] * 20 + [10] * 3, 24) == 10
    assert seconds_left([10, 10], 2) == 0
    assert seconds_left([10, 10], 1) == 0


def test_the_summary_has_the_best_round_and_the_time_left() -> None:
    line = summary(round_record(3, auc=0.7123), 50, 10, (0.7345, 1), 3900)
    assert line == (
        "round 3 of 50: 1 of 10 hospitals in 1.0 s: loss 0.500, validation AUC before it 0.712; "
        "best so far: round 1 with 0.735; about 1 h 05 min left"
    )
    line = summary(round_record(50), 50, 10, None, 0)
    assert line.endswith("validation AUC before it -")
