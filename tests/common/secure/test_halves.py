"""Half a word for each parameter, against the sum itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.secure.halves import Entries, from_halves, rounding, to_halves, words_for

CLIP = 4.0


def vector(kind: str, entries: int, rng: np.random.Generator) -> Entries:
    """Return a change of norm ``CLIP``, or nothing."""
    change = np.zeros(entries)
    if kind == "one entry":
        change[rng.integers(entries)] = -1.0
    elif kind == "all alike":
        change += 1.0
    elif kind == "all different":
        change = rng.standard_normal(entries)
    return change * (CLIP / max(1e-9, float(np.linalg.norm(change))))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 3000),
    st.lists(
        st.tuples(
            st.integers(1, 1000),
            st.sampled_from(["one entry", "all alike", "all different", "nothing"]),
        ),
        min_size=1,
        max_size=20,
    ),
    st.integers(0, 1000),
    st.floats(0.52, 3.0),
)
def test_the_sum_is_as_precise_as_is_said(
    entries: int, hospitals: list[tuple[int, str]], seed: int, slack: float
) -> None:
    rng = np.random.default_rng(seed)
    total = slack * sum(films for films, _ in hospitals)
    words, expected = np.zeros(words_for(entries), np.uint32), np.zeros(entries)
    for films, kind in hospitals:
        change = vector(kind, entries, rng)
        words += to_halves(change, films / total, CLIP, seed, rng)
        expected += films / total * change
    off = from_halves(words, entries, CLIP, seed) - expected
    assert np.linalg.norm(off) <= len(hospitals) * rounding(CLIP)


@pytest.mark.parametrize("kind", ["one entry", "all alike"])
def test_a_thousand_hospitals_that_all_send_the_most_do_not_overflow(kind: str) -> None:
    rng = np.random.default_rng(1)
    change = vector(kind, 101, rng)
    words = np.zeros(words_for(101), np.uint32)
    for _ in range(1000):
        words += to_halves(change, 31 / 16 / 1000, CLIP, 5, rng)
    off = from_halves(words, 101, CLIP, 5) - 31 / 16 * change
    assert np.linalg.norm(off) < 3 * np.sqrt(1000) * rounding(CLIP)


def test_what_is_smaller_than_a_step_arrives_in_the_mean() -> None:
    rng = np.random.default_rng(2)
    small = vector("all different", 5000, rng) * (0.2 * rounding(CLIP) / CLIP)
    rounds = [from_halves(to_halves(small, 1.0, CLIP, 3, rng), 5000, CLIP, 3) for _ in range(400)]
    assert np.linalg.norm(rounds[0] - small) > np.linalg.norm(small)
    assert np.linalg.norm(np.mean(rounds, axis=0) - small) < 0.15 * np.linalg.norm(small)


def test_nothing_takes_no_words() -> None:
    rng = np.random.default_rng(0)
    assert to_halves(np.empty(0), 1.0, CLIP, 0, rng).size == words_for(0) == 0
    assert from_halves(np.empty(0, np.uint32), 0, CLIP, 0).size == 0


def test_a_densenet_takes_half_a_word_for_each_parameter() -> None:
    assert words_for(6_968_206) / 6_968_206 < 0.503
