"""FedDyn: a regulariser that changes from round to round, so that all hospitals agree in the end.

Hospitals minimise their loss minus <g_i, y> plus alpha / 2 |y - x|^2 (see
:mod:`client.local.feddyn`). Of N hospitals, those of S are in the round (N may grow; see
:mod:`server.strategies.mean_of_all`)::

    h' = h - alpha / N * sum over S of (y_i - x)
    x' = mean over S of y_i - h' / alpha

Acar et al., "Federated Learning Based on Dynamic Regularization", ICLR 2021, algorithm 1; the mean
is uniform, h begins at zero. Parameters alone are regularised; BatchNorm's statistics and counters
are averaged as in FedAvg.
"""

import numpy as np

from common.state import State, parameters_of
from server.strategies.base import RoundInfo, Strategy, Updates
from server.strategies.mean_of_all import MeanOfAll
from server.strategies.scaffold import mean_with_uniform_parameters


class FedDyn(Strategy):
    """The uniform mean, minus what the hospitals still disagree on."""

    def __init__(self) -> None:
        self._drift = MeanOfAll()

    def combine(self, before: State, updates: Updates, about: RoundInfo) -> State:
        """Return the corrected mean, and move the server's part of the regulariser."""
        alpha = about.training.alpha
        after = mean_with_uniform_parameters(before, updates)
        means = parameters_of(after)
        changes = {
            name: -alpha * (mean.astype(np.float64) - before[name]) for name, mean in means.items()
        }
        self._drift.follow(changes, means, len(updates.infos), about.hospitals)
        for name, mean in means.items():
            after[name] = np.asarray(mean - self._drift.values[name] / alpha, mean.dtype)
        return after

    def state_dict(self) -> State:
        """Return the server's part of the regulariser."""
        return self._drift.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Go on from it."""
        self._drift.load_state_dict(state)
