"""Histograms in which no bin tells of fewer films than a site's smallest group."""

from collections.abc import Iterator

import numpy as np

from common.histograms import Counts, Histograms


def grouped(histograms: Histograms, least: int) -> Histograms:
    """Return histograms in which every count is 0 or at least ``least``.

    A finding that fewer than two such groups of films have, or are known not to have, is left out:
    of a single group an AUC would have no spread. Of the others all films are still there, but
    moved; the AUC of each finding stays the same, as nearly as the groups allow.

    Args:
        histograms: Of a hospital's films.
        least: The smallest group.
    """
    positives, negatives = (
        np.zeros_like(counts) for counts in (histograms.positives, histograms.negatives)
    )
    for row, (having, others) in enumerate(
        zip(histograms.positives, histograms.negatives, strict=True)
    ):
        if min(having.sum(), others.sum()) < 2 * least:
            continue
        # The more numerous kind first, against the others as they are: its groups are the finer
        # ones, and the others have more places among them than the other way round.
        if having.sum() > others.sum():
            positives[row] = merged(having, others, least)
            negatives[row] = merged(others, positives[row], least)
        else:
            negatives[row] = merged(others, having, least)
            positives[row] = merged(having, negatives[row], least)
    return Histograms(positives, negatives)


def merged(counts: Counts, others: Counts, least: int) -> Counts:
    """Return counts, neighbouring bins merged until none has fewer than ``least`` films.

    The films of a group are counted in one bin, where the share of ``others`` below is nearest to
    their mean of it, which is what the AUC depends on; of several such bins in the middle one. It
    is at most half the largest share of ``others`` in one bin from the mean.

    Args:
        counts: int, 512, at least ``least`` films.
        others: int, 512: films of the other kind, at least one.
        least: The smallest group.
    """
    below = 2 * np.cumsum(others) - others  # twice their number, whole, so that ties are exact
    result = np.zeros_like(counts)
    for first, last in _groups(counts, least):
        group = slice(first, last + 1)
        films = counts[group].sum()
        distance = abs(films * below[group] - counts[group] @ below[group])
        nearest = np.flatnonzero(distance == distance.min())
        result[first + nearest[len(nearest) // 2]] = films
    return result


def _groups(counts: Counts, least: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last bin of each group, from the lowest on; both have films.

    A group ends as soon as it has enough films; what is left over belongs to the last one.
    """
    some = np.flatnonzero(counts)
    left, films, first = int(counts.sum()), 0, -1
    for number in some.tolist():
        first = number if first < 0 else first
        films += int(counts[number])
        if films >= least and not 0 < left - films < least:
            yield first, number
            left, films, first = left - films, 0, -1
