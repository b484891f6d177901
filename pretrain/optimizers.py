"""Optimisers and the learning rate schedule."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from pretrain.recipe import OptimizerSettings

TRUST = 0.001
"""Trust coefficient of LARS, as in SimCLR and BYOL."""


def learning_rate(step: int, steps: int, peak: float, warm_up: float) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine to 0.

    Loshchilov & Hutter 2017, "SGDR", equation 5, without restarts.

    Args:
        step: The step, from 0.
        steps: Steps of the whole training.
        peak: The highest learning rate.
        warm_up: Share of the steps for the warm-up.
    """
    rising = round(warm_up * steps)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


def make_optimizer(module: nn.Module, settings: OptimizerSettings) -> Optimizer:
    """Return the optimiser of all parameters with a gradient; its learning rate is set later.

    Without ``decay_all``, one-dimensional parameters (biases and BatchNorm) get neither weight
    decay nor the adaptation of LARS (BYOL, section 3.3).
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": parameters, "adapt": True}]
    if not settings.decay_all:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "adapt": True},
            {"params": [p for p in parameters if p.ndim <= 1], "adapt": False, "weight_decay": 0},
        ]
    if settings.name == "lars":
        return LARS(groups, settings.momentum, settings.weight_decay)
    return SGD(
        groups,
        lr=0.0,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        fused=True,
    )


class LARS(Optimizer):
    """Layer-wise adaptive rates (You et al. 2017), for all layers at once, as in BYOL's code.

    For weights w and gradient g, with d = g + weight_decay * w:

        buffer = momentum * buffer + TRUST * |w| / |d| * d, or + d if |w| or |d| is 0
        w = w - lr * buffer

    You et al. use |g| + weight_decay * |w| instead of |d|, and SimCLR's code has lr inside the
    buffer. With decay 1e-6 and a slowly changing rate the results are nearly the same.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, weight_decay: float) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Take a step, without waiting for the device."""
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            decayed = [p.grad for p in weights]
            if group["weight_decay"]:
                decayed = list(torch._foreach_add(decayed, weights, alpha=group["weight_decay"]))
            if group["adapt"]:
                decayed = _adapted(weights, decayed)
            buffers = [self._buffer(p) for p in weights]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, decayed)
            torch._foreach_add_(weights, buffers, alpha=-group["lr"])

    def _buffer(self, parameter: torch.Tensor) -> torch.Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: torch.Tensor = state["momentum_buffer"]
        return buffer


def _adapted(weights: list[torch.Tensor], steps: list[torch.Tensor]) -> list[torch.Tensor]:
    of_weights = torch.stack(torch._foreach_norm(weights))
    of_steps = torch.stack(torch._foreach_norm(steps))
    both = (of_weights > 0) & (of_steps > 0)
    ratios = torch.where(both, TRUST * of_weights / of_steps, 1.0)
    return list(torch._foreach_mul(steps, list(ratios.unbind())))
