"""FedProx: a hospital's weights are held back to the received ones.

The loss of a step has mu / 2 |y - x|^2 added, with the received weights x; its gradient is
mu (y - x). Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, equation 2.
"""

from collections.abc import Mapping

from torch import nn

from client.local.base import LocalTraining


class FedProx(LocalTraining):
    """SGD with a proximal term."""

    def correct(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Add the gradient of the proximal term."""
        self.hold_back(parameters, self.training.mu)
