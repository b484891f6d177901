"""AUC over pairs of films of the same source, against a loop over the pairs."""

from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.films import within_sources
from common.findings import UNKNOWN


def pair_by_pair(
    labels: npt.NDArray[np.uint8], scores: npt.NDArray[np.float32], sources: list[str]
) -> float:
    """Compare each film that shows a finding with each that does not; a tie is half a win."""
    aucs = []
    for shown, score in zip(labels.T, scores.T, strict=True):
        wins = [
            (score[i] > score[j]) + 0.5 * (score[i] == score[j])
            for i, j in product(range(len(shown)), repeat=2)
            if shown[i] == 1 and shown[j] == 0 and sources[i] == sources[j]
        ]
        if wins:
            aucs.append(np.mean(wins))
    return float(np.mean(aucs))


@given(
    labels=arrays(np.uint8, (12, 14), elements=st.sampled_from([0, 1, UNKNOWN])),
    scores=arrays(np.float32, (12, 14), elements=st.integers(0, 4)),
    sources=st.lists(st.sampled_from("abc"), min_size=12, max_size=12),
)
def test_only_pairs_of_the_same_source_count(
    labels: npt.NDArray[np.uint8], scores: npt.NDArray[np.float32], sources: list[str]
) -> None:
    labels[:2, 0], sources[:2] = (0, 1), ["a", "a"]  # one pair at least
    found = within_sources(labels, scores, np.array(sources))
    assert found == pytest.approx(pair_by_pair(labels, scores, sources))


def test_who_knows_only_the_source_is_at_one_half() -> None:
    sources = np.array(["sick"] * 6 + ["well"] * 6)
    labels = np.zeros((12, 14), np.uint8)
    labels[:5] = labels[11] = 1
    scores = np.repeat((sources == "sick").astype(np.float32)[:, None], 14, axis=1)
    assert within_sources(labels, scores, sources) == 0.5
