"""Films with labels and logits, and histograms of them."""

import numpy as np
import numpy.typing as npt

from common.findings import FINDINGS, UNKNOWN
from common.histograms import BINS, SHAPE, Histograms


def some_films(
    films: int, seed: int, spread: float = 2.0, unknown: float = 0.2
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Return labels and logits, N x 14, that tell something of each other, with ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (films, len(FINDINGS)), np.uint8)
    logits = rng.normal(labels, spread).round(2).astype(np.float32)
    labels[rng.random(labels.shape) < unknown] = UNKNOWN
    return labels, logits


def same_counts(a: Histograms, b: Histograms) -> bool:
    """Return whether two have the same counts."""
    return bool((a.positives == b.positives).all() and (a.negatives == b.negatives).all())


def histograms_with(auc: float, films: int = 100) -> Histograms:
    """Return histograms in which every finding has this AUC, over so many films of each kind."""
    positives, negatives = np.zeros(SHAPE, np.int64)
    negatives[:, BINS // 2] = films
    positives[:, BINS - 1] = round(auc * films)
    positives[:, 0] = films - positives[:, BINS - 1]
    return Histograms(positives, negatives)
