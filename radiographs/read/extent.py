"""How much of the grey scale a film uses. Little of it tells of a fault in file or header."""

from typing import NamedTuple

import numpy as np
from PIL import Image

FEWEST = 64
"""A film with a smaller range, or with fewer grey levels, is dull: a quarter of 256.

Of 11,262 real films two are, and hardly anything is seen on these two. The range is that between
the 1st and 99th percentile.
"""

LEAST_SHARE = 0.001
"""Smallest share of the pixels that makes a grey level count."""

TWO_LEVELS = 0.7
"""Share of the pixels in the two most frequent grey levels that makes a film dull.

It is at most 0.62 on real films. A film that its window turns into black and white has more.
"""


class Extent(NamedTuple):
    """How much of 0 to 255 a film uses.

    Attributes:
        low: The 1st percentile.
        high: The 99th percentile.
        levels: Number of grey levels that hold at least LEAST_SHARE of the pixels.
        two: Share of the pixels in the two most frequent levels, 0 to 1.
    """

    low: int
    high: int
    levels: int
    two: float

    @property
    def dull(self) -> bool:
        """Whether it is under a quarter of the range or of the levels, or two levels are most."""
        return self.high - self.low < FEWEST or self.levels < FEWEST or self.two >= TWO_LEVELS


def extent_of(film: Image.Image) -> Extent:
    """Measure how much of the grey scale a film, a picture in mode L, uses."""
    shares = np.array(film.histogram()) / (film.width * film.height)
    low, high = np.searchsorted(np.cumsum(shares), [0.01, 0.99]).tolist()
    levels = int(np.count_nonzero(shares >= LEAST_SHARE))
    return Extent(low, high, levels, float(np.partition(shares, -2)[-2:].sum()))
