"""Where and how a hospital's models are scored and trained."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from client.accelerator import ResidentFilms
from client.cancellation import Cancellation
from client.compiled import Compiled
from client.examples import Indices
from client.local.base import LocalTraining
from client.training import train
from common.frozen import FrozenFeatures
from common.model import fastest_precision
from common.options import Precision
from common.protocol import Instruction
from common.secret_stream import SecretStream
from common.shard import Shard


class Computing:
    """Holds what is worth keeping on a device from round to round.

    Args:
        site: The hospital's name.
        shard: Its films.
        device: Where to compute.
        precision: Of the training; None: bf16 where the device has instructions for it. Models are
            scored in fp32.
        compiled: Whether to compile the training.

    Attributes:
        device: Where it computes; may be set to another one.
    """

    def __init__(
        self,
        site: str,
        shard: Shard,
        device: torch.device,
        precision: Precision | None,
        compiled: bool,
    ) -> None:
        self.device = self._first = device
        self._site = site
        self._shard = shard
        self._precision = precision
        self._compile = compiled
        self._compiled: Compiled | None = None
        self._films = ResidentFilms(shard.images)
        self._features = FrozenFeatures()

    @property
    def fell_back(self) -> bool:
        """Whether it computes on another device than it began with: the CPU."""
        return self.device != self._first

    @property
    def precision(self) -> Precision:
        """In which it trains on its device; bf16 that was given is for the one it began with."""
        given = None if self.fell_back and self._precision == "bf16" else self._precision
        return given or fastest_precision(self.device)

    def give_up_films(self) -> None:
        """Leave an accelerator's memory to the training for good."""
        self._films.give_up()

    def score(
        self,
        model: nn.Module,
        validation: Indices,
        backbone: str | None,
        before_batch: Callable[[], None],
    ) -> torch.Tensor:
        """Return a model's logits of some films: float32, N x 14, on the CPU.

        Args:
            model: On the device.
            validation: The films.
            backbone: Hash of the model's backbone if that is frozen.
            before_batch: Called before each batch.
        """
        films = replace(self._shard, resident=self._films.on(self.device))
        return self._features.predict(
            model, films, validation, self.device, backbone, before_batch
        ).cpu()

    def train(
        self,
        model: nn.Module,
        shard: Shard,
        chosen: Indices,
        instruction: Instruction,
        cancellation: Cancellation,
        local: LocalTraining,
        secret: SecretStream | None,
    ) -> float | None:
        """Train a model on some films; see :func:`client.training.train`.

        Args:
            model: On the device.
            shard: The hospital's films, with the labels that may be used.
            chosen: The films.
            instruction: What to do.
            cancellation: Checked before each step.
            local: Corrects gradients.
            secret: Draws films and noise with ``--dp sample``.
        """
        compiled = self._compiled_for(model) if self._compile and not self.fell_back else None
        return train(
            model,
            replace(shard, resident=self._films.on(self.device)),
            chosen,
            instruction,
            self._site,
            self.device,
            self.precision,
            cancellation,
            local,
            compiled,
            secret,
        )

    def _compiled_for(self, model: nn.Module) -> Compiled:
        """Return the model's compiled forward pass, the same one as long as it is this model."""
        if self._compiled is None or self._compiled.model is not model:
            self._compiled = Compiled(model)
        return self._compiled
