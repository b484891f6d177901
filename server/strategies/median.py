"""The median, weight by weight.

Yin et al., "Byzantine-Robust Distributed Learning", ICML 2018, definition 1. All hospitals count
the same.
"""

import numpy as np

from common.state import State, is_float
from server.strategies.base import RoundInfo, Strategy, Updates


class Median(Strategy):
    """The value in the middle, or the mean of the two; integers are rounded."""

    def combine(self, before: State, updates: Updates, about: RoundInfo) -> State:
        """Return the median of each weight."""
        del about
        after: State = {}
        for tensor, values in updates.columns():
            middle = np.median(values.astype(np.float64), axis=0)
            like = before[tensor]
            after[tensor] = np.asarray(middle if is_float(like) else np.rint(middle), like.dtype)
        return after
