"""What a method of local training is: it changes gradients, and may remember a state."""

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import nn

from common.model import tensor_of
from common.options import Training
from common.state import State


class LocalTraining:
    """Plain SGD; base of methods that correct its gradients.

    All states have the parameters that hospitals return: their names, dtypes and shapes.

    Args:
        training: Settings.
        before: As they were received.
        received: Named states that came beside the weights.
        own: What :meth:`learned` returned in the hospital's last round that counted; empty if
            there was none.
        device: Where gradients are.
    """

    def __init__(
        self,
        training: Training,
        before: State,
        received: Mapping[str, State],
        own: State,
        device: torch.device,
    ) -> None:
        self.training = training
        self.before = before
        self.received = received
        self.own = own
        self.device = device

    def correct(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Change the gradients of a step, in place.

        Args:
            parameters: All that are trained, by name.
        """

    def learned(self, after: State, steps: int) -> State:
        """Return what the hospital remembers for its next round.

        Args:
            after: The parameters after the training, as they arrive at the server.
            steps: How many it took.
        """
        del after, steps
        return {}

    @torch.no_grad()
    def hold_back(self, parameters: Mapping[str, nn.Parameter], weight: float) -> None:
        """Add the gradient of weight / 2 times the squared distance to the received parameters."""
        for name, start in self._start.items():
            parameter = parameters[name]
            assert parameter.grad is not None  # noqa: S101 - all of them have been through backward
            parameter.grad.add_(parameter - start, alpha=weight)

    @cached_property
    def _start(self) -> dict[str, torch.Tensor]:
        return self.on_device(self.before)

    def on_device(self, state: State) -> dict[str, torch.Tensor]:
        """Return a state as tensors where the gradients are."""
        return {name: tensor_of(array).to(self.device) for name, array in state.items()}
