"""FedProx: a hospital's weights are held back to the received ones.

The loss of a step has mu / 2 |y - x|^2 added, with the received weights x; its gradient is
mu (y - x). Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, equation 2.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from client.local.base import LocalTraining


class FedProx(LocalTraining):
    """SGD with a proximal term."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._start = self.on_device(self.before)

    @torch.no_grad()
    def correct(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Add the gradient of the proximal term."""
        for name, start in self._start.items():
            parameter = parameters[name]
            assert parameter.grad is not None  # noqa: S101 - all of them have been through backward
            parameter.grad.add_(parameter - start, alpha=self.training.mu)
