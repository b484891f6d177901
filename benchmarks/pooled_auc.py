"""How far is the pooled AUC from that of all films, with histograms and with groups of films?

    python -m benchmarks.pooled_auc

Ten hospitals have logits of two normal distributions, shifted at each hospital; the exact AUC of
all films is about 0.76. Every hospital tells histograms as its policy allows.
"""

import math
import time

import numpy as np
import numpy.typing as npt

from client.grouping import merged
from common.histograms import BINS, EDGES, Counts
from common.readings import auc_of, binning_bound, delong_interval

HOSPITALS, DRAWS = 10, 200

FILMS = ((10, 500), (30, 500), (100, 1000), (20, 80))
"""Of each hospital, with the finding and without it."""

Floats = npt.NDArray[np.float64]


def counts_of(logits: Floats) -> Counts:
    """Return a histogram of logits."""
    return np.histogram(np.clip(logits, EDGES[0], EDGES[-1]), EDGES)[0]


def exact(positives: Floats, negatives: Floats) -> tuple[float, float]:
    """Return AUC and DeLong's interval's width of logits without ties."""
    below = np.searchsorted(np.sort(negatives), positives) / len(negatives)
    above = 1 - np.searchsorted(np.sort(positives), negatives) / len(positives)
    variance = below.var(ddof=1) / len(positives) + above.var(ddof=1) / len(negatives)
    return float(below.mean()), 2 * 1.959964 * math.sqrt(variance)


def told(positives: Counts, negatives: Counts, least: int) -> tuple[Counts, Counts]:
    """Return a finding's histograms as a policy allows; see :func:`client.grouping.grouped`."""
    if least == 1:
        return positives, negatives
    negatives = merged(negatives, positives, least)
    return merged(positives, negatives, least), negatives


def main() -> None:
    """Print a row for each number of films and smallest group."""
    print(f"{HOSPITALS} hospitals, {DRAWS} draws, {BINS} bins, {time.strftime('%Y-%m-%d')}")
    print("with  without  min_group  error: mean   worst  largest bound  interval's width")
    for with_it, without in FILMS:
        for least in (1, 5, 10):
            if with_it < 2 * least:
                continue
            rng = np.random.default_rng(0)
            errors, bounds, widths = [], [], []
            for _ in range(DRAWS):
                shifts = rng.normal(-2, 0.3, (HOSPITALS, 1))
                positives = shifts + rng.normal(1.2, 1.2, (HOSPITALS, with_it))
                negatives = shifts + rng.normal(0, 1.2, (HOSPITALS, without))
                pairs = [
                    told(counts_of(a), counts_of(b), least)
                    for a, b in zip(positives, negatives, strict=True)
                ]
                pooled = np.sum(pairs, axis=0)
                auc, bound = auc_of(*pooled), binning_bound(*pooled)
                interval = delong_interval(*pooled)
                if auc is None or bound is None or interval is None:
                    raise SystemExit("too few films for an interval")
                expected, width = exact(positives.ravel(), negatives.ravel())
                errors.append(auc - expected)
                bounds.append(bound)
                widths.append((interval[1] - interval[0]) / width)
            print(
                f"{with_it:>4}  {without:>7}  {least:>9}  {np.mean(errors):>+11.4f}"
                f"  {np.abs(errors).max():>6.4f}  {max(bounds):>13.4f}  {np.mean(widths):>16.2f}"
            )


if __name__ == "__main__":
    main()
