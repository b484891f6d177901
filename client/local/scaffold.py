"""SCAFFOLD, the hospital's part: gradients are corrected by control variates.

With the server's control variate c, the hospital's c_i, the received weights x, and y after K
effective steps at rate eta::

    each step     gradient + c - c_i
    in the end    c_i' = c_i - c + (x - y) / (K eta)

Karimireddy et al., ICML 2020, algorithm 1, option II, where the steps are plain SGD. Under momentum
the change is a sum in which each gradient counts as often as momentum repeats it; K is the sum of
these (:meth:`common.options.Training.effective_steps`), so that the quotient is a mean gradient.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from client.local.base import Learned, LocalTraining
from common.state import CONTROL, State


class Scaffold(LocalTraining):
    """SGD with control variates."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        zero: State = {name: np.zeros_like(array) for name, array in self.before.items()}
        self._theirs = self.received[CONTROL]
        self._ours = self.own or zero
        correction = {name: self._theirs[name] - ours for name, ours in self._ours.items()}
        self._correction = self.on_device(correction)

    @torch.no_grad()
    def correct(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Add the server's control variate, and take away the hospital's."""
        for name, correction in self._correction.items():
            gradient = parameters[name].grad
            assert gradient is not None  # noqa: S101 - all of them have been through backward
            gradient.add_(correction)

    def learned(self, after: State, steps: int) -> Learned:
        """Return the new control variate, and its change for the server."""
        length = self.training.effective_steps(steps) * self.training.lr
        change = {
            name: np.asarray(
                (self.before[name].astype(np.float64) - array) / length - self._theirs[name],
                array.dtype,
            )
            for name, array in after.items()
        }
        ours = {name: self._ours[name] + change[name] for name in change}
        return Learned(ours, {CONTROL: change})
