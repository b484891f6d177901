"""P-values of several comparisons at once."""

from collections.abc import Sequence


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p-values after Holm's correction, in the order given.

    Holm, "A simple sequentially rejective multiple test procedure", 1979: the smallest of m is
    multiplied by m, the next by m - 1, and so on; none may fall below one before it.
    """
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted
