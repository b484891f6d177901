"""No count that leaves a hospital is of a small group, and the AUC stays what it is."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from client.grouping import grouped, merged
from common.findings import FINDINGS
from common.histograms import BINS, Counts, histograms_of
from common.readings import auc_of
from tests.support.histograms import some_films

LEAST = st.integers(2, 12)
SEEDS = st.integers(0, 2**32 - 1)


def slow_groups(counts: Counts, least: int) -> list[list[int]]:
    """Return the films of each group by their bins, found film by film."""
    films = np.repeat(np.arange(BINS), counts).tolist()
    groups: list[list[int]] = [[]]
    while films:
        number = films[0]
        if len(groups[-1]) >= least and len(films) >= least:
            groups.append([])
        groups[-1] += [film for film in films if film == number]
        films = [film for film in films if film != number]
    return groups


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(0, 200), st.floats(0.01, 6), LEAST)
def test_no_count_is_of_a_small_group(seed: int, films: int, spread: float, least: int) -> None:
    histograms = histograms_of(*some_films(films, seed, spread))
    told = grouped(histograms, least)
    for row, finding in enumerate(FINDINGS):
        whole = [int(counts.sum()) for counts in histograms.of(finding)]
        kept = [int(counts.sum()) for counts in told.of(finding)]
        assert kept == (whole if min(whole) >= 2 * least else [0, 0])
        for counts in (told.positives[row], told.negatives[row]):
            assert not ((counts > 0) & (counts < least)).any()


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(30, 200), st.floats(0.01, 6), LEAST)
def test_the_auc_stays_as_near_as_the_groups_allow(
    seed: int, films: int, spread: float, least: int
) -> None:
    histograms = histograms_of(*some_films(films, seed, spread, unknown=0))
    told = grouped(histograms, least)
    for finding in FINDINGS:
        before, after = histograms.of(finding), told.of(finding)
        if (auc := auc_of(*after)) is None:
            continue
        exact = auc_of(*before)
        assert exact is not None
        first = 0 if before[0].sum() > before[1].sum() else 1
        largest = after[first].max() / after[first].sum()
        largest += before[1 - first].max() / before[1 - first].sum()
        assert abs(auc - exact) <= largest / 2 + 1e-12


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(30, 200), st.floats(0.01, 6), LEAST)
def test_films_stay_within_their_group(seed: int, films: int, spread: float, least: int) -> None:
    counts, others = histograms_of(*some_films(films, seed, spread, unknown=0)).of("Mass")
    if counts.sum() < least or not others.any():
        return
    told = merged(counts, others, least)
    places = np.flatnonzero(told).tolist()
    groups = slow_groups(counts, least)
    assert [len(group) for group in groups] == told[places].tolist()
    for place, group in zip(places, groups, strict=True):
        assert group[0] <= place <= group[-1]


def test_bins_with_enough_films_stay_where_they_are() -> None:
    counts, others = np.zeros((2, BINS), np.int64)
    counts[[3, 100, 511]] = 5, 7, 6
    others[[0, 99, 100, 300]] = 1
    assert (merged(counts, others, 5) == counts).all()
