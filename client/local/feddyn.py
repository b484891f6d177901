"""FedDyn, the hospital's part: a regulariser that remembers how far the hospital has moved.

The loss of a step has -<g, y> + alpha / 2 |y - x|^2 added, with the received weights x; in the end
g' = g - alpha (y - x), which begins at zero. Acar et al., ICLR 2021, algorithm 1.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from client.local.base import LocalTraining
from common.state import State


class FedDyn(LocalTraining):
    """SGD with a dynamic regulariser."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        zero: State = {name: np.zeros_like(array) for name, array in self.before.items()}
        self._gradient = self.own or zero
        self._linear = self.on_device(self._gradient)

    @torch.no_grad()
    def correct(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Add the gradient of the regulariser."""
        self.hold_back(parameters, self.training.alpha)
        for name, linear in self._linear.items():
            gradient = parameters[name].grad
            assert gradient is not None  # noqa: S101 - all of them have been through backward
            gradient.sub_(linear)

    def learned(self, after: State, steps: int) -> State:
        """Return what the regulariser remembers."""
        del steps
        alpha = self.training.alpha
        return {
            name: np.asarray(self._gradient[name] - alpha * (y - self.before[name]), y.dtype)
            for name, y in after.items()
        }
