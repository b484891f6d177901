"""The server's own optimiser: the mean update is a gradient, along which it takes a step.

With the change D = mean - x of a round's mean, all operations tensor entry by tensor entry::

    FedAvgM      m' = b m + D                  x' = x + lr m'
    FedAdagrad   v' = v + D^2
    FedYogi      v' = v - (1 - b2) D^2 sign(v - D^2)
    FedAdam      v' = b2 v + (1 - b2) D^2
    the three    m' = b m + (1 - b) D          x' = x + lr m' / (sqrt(v') + tau)

FedAvgM: Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated
Visual Classification", 2019, section 4.2. The others: Reddi et al., "Adaptive Federated
Optimization", ICLR 2021, algorithm 2, which has no bias correction and begins with m = 0 and v of
at least tau^2; here v = tau^2. BatchNorm's statistics and counters are those of the mean: a step
along a change of a variance may end below zero.
"""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from common.state import WEIGHTS, State, is_float, join, parameters_of, split
from server.strategies.base import RoundInfo, Strategy, Updates
from server.strategies.settings import Step

Floats = npt.NDArray[np.float64]


class ServerStep(Strategy):
    """A mean, and a step along its change.

    Args:
        settings: Rate and decays of the step.
        mean: Makes the mean.
    """

    MOMENTS: ClassVar[tuple[str, ...]]
    """Names of what is remembered for each parameter."""

    def __init__(self, settings: Step, mean: Strategy) -> None:
        self.settings = settings
        self._mean = mean
        self._moments: dict[str, State] = {name: {} for name in self.MOMENTS}

    @abstractmethod
    def step(self, tensor: str, change: Floats) -> Floats:
        """Return how far a parameter moves, and remember the moments.

        Args:
            tensor: Its name.
            change: Of the mean.
        """

    def combine(self, before: State, updates: Updates, about: RoundInfo) -> State:
        """Return where the step leads."""
        after = self._mean.combine(before, updates, about)
        for name, mean in parameters_of(after).items():
            if is_float(mean):
                change = mean.astype(np.float64) - before[name]
                # Exactly the mean for a step that is the change.
                after[name] = np.asarray(mean + (self.step(name, change) - change), mean.dtype)
        return after

    def moment(self, which: str, tensor: str, first: Floats) -> Floats:
        """Return a moment of a parameter; ``first`` before the first round."""
        kept = self._moments[which].get(tensor)
        return first if kept is None else kept.astype(np.float64)

    def remember(self, which: str, tensor: str, values: Floats) -> None:
        """Keep a moment for the next round."""
        self._moments[which][tensor] = values.astype(np.float32)

    def state_dict(self) -> State:
        """Return the moments, and what the mean remembers."""
        return join({WEIGHTS: self._mean.state_dict(), **self._moments})

    def load_state_dict(self, state: State) -> None:
        """Go on from these."""
        states = split(state)
        self._mean.load_state_dict(states[WEIGHTS])
        self._moments.update({name: states.get(name, {}) for name in self.MOMENTS})


class FedAvgM(ServerStep):
    """Momentum at the server."""

    MOMENTS = ("m",)

    def step(self, tensor: str, change: Floats) -> Floats:
        """Return the step of SGD with momentum."""
        before = self.moment("m", tensor, np.zeros(change.shape))
        speed = self.settings.momentum * before + change
        self.remember("m", tensor, speed)
        return self.settings.lr * speed


class Adaptive(ServerStep):
    """A rate for each entry of a parameter."""

    MOMENTS = ("m", "v")

    def step(self, tensor: str, change: Floats) -> Floats:
        """Return the step of algorithm 2."""
        lr, beta, _, tau = self.settings
        speed = beta * self.moment("m", tensor, np.zeros(change.shape)) + (1 - beta) * change
        spread = self.moment("v", tensor, np.full(change.shape, tau**2))
        spread = self.spread(spread, change**2)
        self.remember("m", tensor, speed)
        self.remember("v", tensor, spread)
        return lr * speed / (np.sqrt(spread) + tau)

    @abstractmethod
    def spread(self, spread: Floats, square: Floats) -> Floats:
        """Return the second moment.

        Args:
            spread: After the round before.
            square: Of the change.
        """


class FedAdagrad(Adaptive):
    """The sum of all squares."""

    def spread(self, spread: Floats, square: Floats) -> Floats:
        """Return the sum."""
        return spread + square


class FedAdam(Adaptive):
    """A moving average of the squares."""

    def spread(self, spread: Floats, square: Floats) -> Floats:
        """Return the average."""
        beta2 = self.settings.beta2
        return beta2 * spread + (1 - beta2) * square


class FedYogi(Adaptive):
    """A moving average of the squares that goes towards them by no more than they are."""

    def spread(self, spread: Floats, square: Floats) -> Floats:
        """Return the average."""
        return spread - (1 - self.settings.beta2) * square * np.sign(spread - square)
