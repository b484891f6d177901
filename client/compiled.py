"""The forward pass of local training, compiled if the machine can."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch

from common.model import is_out_of_memory

log = logging.getLogger(__name__)

Forward = Callable[[Tensor], Tensor]
"""From a model's inputs, float32, B x 3 x C x C, to its logits, B x 14."""


class Compiled:
    """A model's compiled forward pass; weights, names and modes stay those of the model.

    Args:
        model: Is compiled at the first call, and again for another mode or size of batch.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._forward: Forward = torch.compile(model)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the logits; without compiling from the first failure on."""
        if self._forward is not self.model:
            try:
                # Or the backward pass would be compiled later, outside of this call.
                with functorch.patch(force_non_lazy_backward_lowering=True):
                    return self._forward(inputs)
            except Exception as error:  # compilers raise many kinds
                if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
                    raise
                log.warning(
                    "--compile: the model cannot be compiled here (%s); the training goes on "
                    "without; install g++, or omit the option",
                    type(error).__name__,
                )
                log.debug("why it cannot be compiled", exc_info=True)
                self._forward = self.model
        logits: Tensor = self.model(inputs)
        return logits
