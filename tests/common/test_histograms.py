"""Counts that add up, and travel as a text that anybody may have forged."""

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.findings import FINDINGS, UNKNOWN
from common.histograms import (
    BINS,
    EDGES,
    LIMIT,
    SHAPE,
    WIRE_BYTES,
    Histograms,
    histograms_of,
    total,
)
from common.scores import MOST_IMAGES
from tests.support.histograms import same_counts, some_films

WIDTH = 2 * LIMIT / BINS


def text_of(counts: bytes) -> str:
    return base64.b64encode(zlib.compress(counts)).decode()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 60), st.integers(0, 2**32 - 1), st.floats(0.01, 1e6))
def test_every_known_film_is_in_the_bin_of_its_logit(films: int, seed: int, spread: float) -> None:
    labels, logits = some_films(films, seed, spread)
    histograms = histograms_of(labels, logits)
    slow = np.zeros(SHAPE, int)
    for row in range(films):
        for column in range(len(FINDINGS)):
            if labels[row, column] != UNKNOWN:
                number = int(np.floor((float(logits[row, column]) + LIMIT) / WIDTH))
                kind = 0 if labels[row, column] == 1 else 1
                slow[kind, column, min(max(number, 0), BINS - 1)] += 1
    assert (histograms.positives == slow[0]).all()
    assert (histograms.negatives == slow[1]).all()


@pytest.mark.parametrize(
    ("logit", "number"),
    [
        *((-np.inf, 0), (-1e30, 0), (-LIMIT, 0), (0.0, BINS // 2), (LIMIT, BINS - 1)),
        *((np.inf, BINS - 1), (EDGES[7], 7), (np.nextafter(EDGES[7], -20), 6)),
    ],
)
def test_edges_and_what_is_beyond_the_range(logit: float, number: int) -> None:
    labels = np.ones((1, len(FINDINGS)), np.uint8)
    histograms = histograms_of(labels, np.full(labels.shape, logit))
    assert (histograms.positives.argmax(axis=1) == number).all()


def test_a_logit_that_is_not_a_number_is_refused_unless_its_label_is_unknown() -> None:
    labels, logits = some_films(5, 0)
    logits[0, 0], labels[0, 0] = np.nan, UNKNOWN
    histograms_of(labels, logits)
    labels[0, 0] = 0
    with pytest.raises(ValueError, match="diverged"):
        histograms_of(labels, logits)


def test_they_add_up_to_those_of_all_films() -> None:
    labels, logits = some_films(90, 1)
    parts = [histograms_of(labels[part], logits[part]) for part in np.split(np.arange(90), 3)]
    summed = total(parts)
    assert summed is not None
    assert same_counts(summed, histograms_of(labels, logits))
    assert same_counts(summed, parts[2] + parts[0] + parts[1])
    assert total([]) is None


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_a_text_tells_all_of_them(films: int, seed: int) -> None:
    histograms = histograms_of(*some_films(films, seed))
    assert same_counts(Histograms.from_text(histograms.to_text()), histograms)


def test_the_largest_counts_can_be_told_and_no_larger_ones() -> None:
    counts = np.zeros(SHAPE, np.int64)
    counts[:, :, 3] = MOST_IMAGES // 2
    assert Histograms.from_text(Histograms(*counts).to_text()).films == MOST_IMAGES
    counts[0, 13, 5] = 1
    with pytest.raises(ValueError, match="more than"):
        Histograms(*counts).to_text()
    with pytest.raises(ValueError, match="more than"):
        Histograms.from_text(text_of(counts.astype("<u4").tobytes()))


WHOLE = zlib.compress(bytes(WIRE_BYTES))


@pytest.mark.parametrize(
    "text",
    [
        *("", "!", "\u00e9", "AAAA", "a" * 1001),
        base64.b64encode(WHOLE).decode() + "\n",
        base64.b64encode(WHOLE[:-1]).decode(),
        base64.b64encode(WHOLE + b"more").decode(),
        text_of(bytes(WIRE_BYTES - 4)),
        text_of(bytes(WIRE_BYTES + 4)),
        text_of(bytes(50_000_000)),
        text_of(b"\xff" * WIRE_BYTES),
    ],
)
def test_a_forged_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="histograms"):
        Histograms.from_text(text)


@settings(deadline=None, max_examples=100)
@given(st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()))
def test_any_text_is_refused_and_ends_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="histograms"):
        Histograms.from_text(text)
