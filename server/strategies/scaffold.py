"""SCAFFOLD: control variates against the drift of hospitals whose films differ.

The server's control variate c is sent beside the weights; hospitals add c - c_i to their gradients
(see :mod:`client.local.scaffold`). How their own c_i change, the server computes from the weights
that they return (:mod:`common.control`). Of N hospitals, those of S are in the round (N may grow;
see :mod:`server.strategies.mean_of_all`)::

    x' = x + mean over S of (y_i - x)
    c' = c + |S| / N * mean over S of (c_i' - c_i)

Both means are uniform, so that the corrections of all hospitals cancel. All control variates begin
at zero. Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
ICML 2020, algorithm 1 with a global step of 1. Parameters alone have control variates; BatchNorm's
statistics and counters are averaged as in FedAvg.
"""

import numpy as np

from common.control import control_change
from common.state import CONTROL, State, parameters_of
from server.strategies.base import RoundInfo, Strategy, Update, Updates, weighted_mean
from server.strategies.mean_of_all import MeanOfAll


class Scaffold(Strategy):
    """The uniform mean of weights, and of the changes of the control variates."""

    def __init__(self) -> None:
        self._control = MeanOfAll()

    def sends(self, before: State) -> dict[str, State]:
        """Return the server's control variate."""
        parameters = parameters_of(before)
        zero = {name: np.zeros_like(array) for name, array in parameters.items()}
        return {CONTROL: self._control.values or zero}

    def combine(self, before: State, updates: Updates, about: RoundInfo) -> State:
        """Return the mean, and move the control variate."""
        control, training = self.sends(before)[CONTROL], about.training

        def change(update: Update) -> State:
            steps = training.steps(update.info.examples)
            return control_change(control, before, update.weights, training, steps)

        changes = weighted_mean(control, ((change(update), 1) for update in updates))
        self._control.follow(changes, control, len(updates.infos), about.hospitals)
        return mean_with_uniform_parameters(before, updates)

    def state_dict(self) -> State:
        """Return the control variate."""
        return self._control.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Go on from a control variate."""
        self._control.load_state_dict(state)


def mean_with_uniform_parameters(before: State, updates: Updates) -> State:
    """Return the mean: uniform of parameters, weighted by examples of buffers."""
    parameters = parameters_of(before)
    buffers = {name: array for name, array in before.items() if name not in parameters}
    infos = updates.infos
    uniform = weighted_mean(parameters, ((_only(u.weights, parameters), 1) for u in updates))
    weighted = weighted_mean(
        buffers, ((_only(u.weights, buffers), infos[u.name].weight) for u in updates)
    )
    merged = uniform | weighted
    return {name: merged[name] for name in before}


def _only(state: State, like: State) -> State:
    return {name: state[name] for name in like}
