"""The mean without the smallest and the largest values, weight by weight.

Yin et al., "Byzantine-Robust Distributed Learning", ICML 2018, definition 2. All hospitals count
the same.
"""

import math

import numpy as np

from common.state import State, is_float
from server.strategies.base import RoundInfo, Strategy, Updates

TRIMMED = 0.2
"""Share of the hospitals that is left out at either end."""


class TrimmedMean(Strategy):
    """The mean of the values in the middle; integers are rounded."""

    def combine(self, before: State, updates: Updates, about: RoundInfo) -> State:
        """Return the trimmed mean of each weight."""
        del about
        after: State = {}
        for tensor, values in updates.columns():
            cut = min(math.ceil(TRIMMED * len(values)), (len(values) - 1) // 2)
            ordered = np.sort(values.astype(np.float64), axis=0)
            mean = ordered[cut : len(values) - cut].mean(axis=0)
            like = before[tensor]
            after[tensor] = np.asarray(mean if is_float(like) else np.rint(mean), like.dtype)
        return after
