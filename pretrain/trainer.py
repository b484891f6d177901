"""Trains a method step by step; saves and loads its state."""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.augment import make_view
from common.errors import BadInput
from common.model import build_model, load_state, normalised
from common.state import State
from pretrain.batches import Part
from pretrain.distributed import gather, mean_over_processes, processes, rank
from pretrain.methods import make_method
from pretrain.methods.base import Outcome
from pretrain.networks import Encoder
from pretrain.optimizers import learning_rate, make_optimizer
from pretrain.recipe import BYOLSettings, Recipe, SimCLRSettings


class Trainer:
    """Takes the steps of a recipe.

    Args:
        recipe: All settings that decide the result.
        state: Initial weights of the whole model.
        steps: Steps of the whole training.
        device: Device to compute on.
        compiled: Whether to compile the networks.

    Attributes:
        method: The method; its backbone is the result.
        optimizer: Optimiser of the method's parameters.
        step: Number of steps taken.
        steps: Steps of the whole training.
    """

    def __init__(
        self, recipe: Recipe, state: State, steps: int, device: torch.device, compiled: bool = False
    ) -> None:
        self._recipe = recipe
        self.step, self.steps = 0, steps
        model = build_model(recipe.architecture, recipe.seed)
        load_state(model, state)
        self.method = make_method(recipe, model, recipe.part(processes())).to(device)
        whole_batch = isinstance(recipe.method, SimCLRSettings | BYOLSettings)
        if whole_batch and processes() > 1 and device.type == "cuda":
            # BatchNorm over all GPUs: SimCLR, section 2.2; BYOL as in deepmind-research.
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.method)  # type: ignore[no-untyped-call]
        self.method.train()
        self.optimizer = make_optimizer(self.method, recipe.optimizer)
        torch.backends.cudnn.benchmark = True  # all steps have the same shapes
        if compiled:
            for module in self.method.modules():
                if isinstance(module, Encoder):
                    module.compile(dynamic=False)
        self._forward: torch.nn.Module = self.method
        if processes() > 1:
            # No broadcast: weights follow from the seed, and each process has its own buffers.
            self._forward = DistributedDataParallel(
                self.method, broadcast_buffers=False, init_sync=False, gradient_as_bucket_view=True
            )

    def load(self, state: dict[str, Any]) -> None:
        """Load a state that :meth:`state` returned with the same number of processes.

        Raises:
            BadInput: An earlier version wrote the state, without something that is needed now.
        """
        own = {name: buffer[rank()] for name, buffer in state["buffers"].items()}
        networks = state["parameters"] | own
        different = sorted(networks.keys() ^ self.method.state_dict().keys())
        if different:
            raise BadInput(
                f"--resume: the run was begun by another version, whose state differs in "
                f"{different[0]}; start again with another --out"
            )
        self.method.load_state_dict(networks)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def take_step(self, parts: Iterable[Part]) -> Outcome:
        """Take a step of the optimiser, without waiting for the device.

        Each part of a batch has its own BatchNorm statistics and, for SimCLR, its own negatives.
        The result therefore differs from that of the whole batch.

        Args:
            parts: The parts of the batch.

        Returns:
            The mean over the parts, without gradient.
        """
        recipe = self._recipe
        rate = learning_rate(self.step, self.steps, recipe.lr, recipe.optimizer.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.method.prepare(self.step / self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        outcomes = []
        for number, part in enumerate(parts, start=1):
            with self._without_sync(number < recipe.accumulate):
                outcome: Outcome = self._forward(self.views(part), part.patients)
                (outcome.loss / recipe.accumulate).backward()  # type: ignore[no-untyped-call]
            outcomes.append(outcome)
        self.optimizer.step()
        self.step += 1
        return _mean(outcomes)

    def views(self, part: Part) -> list[Tensor]:
        """Return the views of a part's images, the networks' inputs: float32, B x 3 x C x C."""
        size = self._recipe.image_size
        return [
            normalised(make_view(part.images, draws, size, settings))
            for draws, settings in zip(part.draws, self._recipe.views, strict=True)
        ]

    def _without_sync(self, more: bool) -> AbstractContextManager[None]:
        """Return a context that skips the gradient exchange if more parts follow."""
        if more and isinstance(self._forward, DistributedDataParallel):
            return self._forward.no_sync()
        return nullcontext()

    def is_finite(self) -> bool:
        """Return whether all weights and buffers of all processes are finite; all must call it."""
        tensors = [t for t in self.method.state_dict().values() if t.is_floating_point()]
        norm = mean_over_processes(torch.stack(torch._foreach_norm(tensors)).sum())
        return math.isfinite(float(norm))

    def state(self) -> dict[str, Any]:
        """Return the state of all processes for :meth:`load`; all must call it."""
        parameters = {name: p.detach() for name, p in self.method.named_parameters()}
        buffers = {
            name: gather(tensor.unsqueeze(0))
            for name, tensor in self.method.state_dict().items()
            if name not in parameters
        }
        return {
            "step": self.step,
            "parameters": parameters,
            "buffers": buffers,
            "optimizer": self.optimizer.state_dict(),
        }


def _mean(outcomes: list[Outcome]) -> Outcome:
    """Return the mean over the parts of a batch, without gradient."""

    def mean(tensors: list[Tensor]) -> Tensor:
        return torch.stack(tensors).mean(dim=0).detach()

    signs = {name: mean([o.signs[name] for o in outcomes]) for name in outcomes[0].signs}
    return Outcome(mean([outcome.loss for outcome in outcomes]), signs)
