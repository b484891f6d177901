"""SCAFFOLD, the hospital's part: gradients are corrected by control variates.

In each step c - c_i is added to the gradient, with the server's control variate c and the
hospital's c_i; in the end c_i changes (:mod:`common.control`). Karimireddy et al., ICML 2020,
algorithm 1.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from client.local.base import LocalTraining
from common.control import control_change
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

    def learned(self, after: State, steps: int) -> State:
        """Return the new control variate."""
        change = control_change(self._theirs, self.before, after, self.training, steps)
        return {name: ours + change[name] for name, ours in self._ours.items()}
