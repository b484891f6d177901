"""The training loop for all methods, on a CPU or one or more GPUs."""

import logging
import math
import time
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Never

import numpy as np
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common.checkpoint import write_checkpoint
from common.errors import BadInput
from common.initial import initial_state
from common.model import state_of
from common.provenance import Provenance
from common.runtime.files import sha256_of
from common.shard import MANIFEST, Shard
from pretrain.batches import Batches
from pretrain.distributed import first_says, mean_over_processes, rank
from pretrain.features import pooled_features, rankme
from pretrain.methods.base import Outcome
from pretrain.recipe import Recipe
from pretrain.run_folder import PretrainStatus, RunFolder
from pretrain.trainer import Trainer

LOG_EVERY = 10
"""Steps between two readings of the loss: each waits for the device."""

SAVE_SECONDS = 120
"""Interval between two saves of the trainer's state within an epoch."""

COLLAPSED = 0.02
"""A smaller spread of embeddings means collapse; see embedding_std."""

SAMPLE = 512
"""Images whose embeddings' effective rank is taken after each epoch; see rankme."""

FEW_DIMENSIONS = 0.05
"""A smaller share of the embeddings' dimensions means collapse to a few of them."""

log = logging.getLogger(__name__)


class Engine:
    """Trains a method and saves metrics, state and checkpoint.

    Args:
        recipe: All settings that decide the result.
        shard: Images to pretrain on; labels are ignored.
        out: Path of the checkpoint.
        device: Device to compute on.
        folder: Folder for metrics and state; None in all processes except the first.
        compiled: Whether to compile the networks.
        probe: A labelled shard for k-NN, or None.
        probe_every: Epochs between two probes.

    Attributes:
        batches: The batches of all steps.
        trainer: The trainer, which takes the steps.

    Raises:
        BadInput: The recipe does not fit the shard, or the initial weights are not available.
    """

    def __init__(
        self,
        recipe: Recipe,
        shard: Shard,
        out: Path,
        device: torch.device,
        folder: RunFolder | None,
        *,
        compiled: bool = False,
        probe: Shard | None = None,
        probe_every: int = 10,
    ) -> None:
        self._recipe, self._out, self._device, self._folder = recipe, out, device, folder
        self._probe, self._probe_every = probe, probe_every
        self.batches = Batches(shard, recipe, device)
        chosen = np.linspace(0, len(shard) - 1, min(len(shard), SAMPLE)).astype(np.intp)
        self._sample = shard.images[chosen]
        # No method trains the head, and an old one would not fit the new features.
        self._whole_state, origin = initial_state(
            recipe.init, recipe.architecture, recipe.seed, "replace"
        )
        if origin.taken is not None:
            log.info("initial weights: %s: %s", Path(recipe.init).name, origin.describe())
        steps = recipe.epochs * self.batches.steps_per_epoch
        self.trainer = Trainer(recipe, self._whole_state, steps, device, compiled)
        self._provenance = _provenance(recipe, shard, origin)

    def run(self) -> None:
        """Train to the end.

        Raises:
            BadInput: The loss or a weight is not finite; the last good checkpoint is kept.
        """
        recipe = self._recipe
        done = self.trainer.step == self.trainer.steps
        bar = tqdm(
            total=self.trainer.steps * recipe.images_per_step,
            initial=self.trainer.step * recipe.images_per_step,
            unit=" images",
            unit_scale=True,
            desc=recipe.method.name,
            disable=True if rank() else None,
        )
        with logging_redirect_tqdm(), bar:
            self._train(bar)
        if done:
            self._write_checkpoint()  # a kill may have come between the last two files

    def _train(self, bar: "tqdm[Never]") -> None:
        per_epoch = self.batches.steps_per_epoch
        pending: list[Outcome] = []
        losses: list[float] = []
        saved = started = time.monotonic()
        begun, first = started, self.trainer.step
        for parts in self.batches.steps(self.trainer.step, self.trainer.steps):
            pending.append(self.trainer.take_step(parts))
            ends_epoch = self.trainer.step % per_epoch == 0
            if len(pending) < LOG_EVERY and not ends_epoch:
                continue
            line = self._metrics(pending)
            seconds = time.monotonic() - started
            line["images_per_second"] = len(pending) * self._recipe.images_per_step / seconds
            losses.append(line["loss"])
            bar.update(len(pending) * self._recipe.images_per_step)
            bar.set_postfix(loss=f"{line['loss']:.4f}", lr=f"{line['lr']:.2g}", refresh=False)
            pending.clear()
            late = first_says(time.monotonic() - saved > SAVE_SECONDS, self._device)
            if ends_epoch or late:
                self._check_weights()
            if ends_epoch:
                pace = (time.monotonic() - begun) / (self.trainer.step - first)
                left = timedelta(seconds=round(pace * (self.trainer.steps - self.trainer.step)))
                self._end_epoch(line, losses, left)
                losses.clear()
            if self._folder is not None:
                self._folder.write_metrics(line)
            if ends_epoch or late:
                self._save()
                saved = time.monotonic()
            if ends_epoch:
                self._write_checkpoint()  # after the state, which --resume needs
            started = time.monotonic()

    def _metrics(self, pending: list[Outcome]) -> dict[str, Any]:
        """Fetch losses and signs from the device; return a line of metrics.

        Raises:
            BadInput: A loss is not finite. The message names the step.
        """
        names = list(pending[0].signs)
        losses = torch.stack([outcome.loss for outcome in pending])
        signs = torch.stack([torch.stack(list(outcome.signs.values())) for outcome in pending])
        fetched = mean_over_processes(torch.cat([losses, signs.mean(dim=0)])).tolist()
        values = fetched[: len(pending)]
        for step, value in enumerate(values, start=self.trainer.step - len(pending) + 1):
            if not math.isfinite(value):
                raise BadInput(
                    f"step {step} of {self.trainer.steps}: the loss is {value}; {self._remedy()}"
                )
        line = {
            "step": self.trainer.step,
            "epoch": self.trainer.step / self.batches.steps_per_epoch,
            "loss": sum(values) / len(values),
            "lr": self.trainer.optimizer.param_groups[0]["lr"],
        }
        return line | dict(zip(names, fetched[len(pending) :], strict=True))

    def _check_weights(self) -> None:
        """Check the weights before a save; the loss says nothing about the step after it.

        Raises:
            BadInput: A weight or a buffer is not finite.
        """
        if not self.trainer.is_finite():
            where = f"step {self.trainer.step} of {self.trainer.steps}"
            raise BadInput(f"{where}: weights are not finite; {self._remedy()}")

    def _remedy(self) -> str:
        epochs = (self.trainer.step - 1) // self.batches.steps_per_epoch
        kept = f"{self._out} keeps epoch {epochs}" if epochs else "no epoch was finished"
        return f"{kept}; start again with another --out and a lower --lr"

    def _end_epoch(self, line: dict[str, Any], losses: list[float], left: timedelta) -> None:
        """Add the scores of the epoch to its last line of metrics; log it, with the time left."""
        if self._folder is None:
            return
        epoch = self.trainer.step // self.batches.steps_per_epoch
        spread = line["embedding_std"]
        encoder = self.trainer.method.encoder
        # Not the encoder itself, which --compile would compile again for another batch.
        network = torch.nn.Sequential(encoder.backbone, encoder.head)
        embeddings = pooled_features(network, self._sample, self._device)
        line["rankme"] = rank = rankme(embeddings)
        most = min(embeddings.shape)
        probed = ""
        due = epoch % self._probe_every == 0 or epoch == self._recipe.epochs
        if self._probe is not None and due:
            line["knn_auc"] = self._knn(self._probe)
            probed = ", k-NN AUC none: --probe needs two patients who differ in a finding"
            if line["knn_auc"] is not None:
                probed = f", k-NN AUC {line['knn_auc']:.3f}"
        log.info(
            "epoch %d of %d: loss %.4f, spread of embeddings %.3f, effective rank %.1f of %d%s, "
            "%.0f images/s, %s left",
            epoch,
            self._recipe.epochs,
            sum(losses) / len(losses),
            spread,
            rank,
            most,
            probed,
            line["images_per_second"],
            left,
        )
        if spread < COLLAPSED:
            log.warning(
                "warning: the embeddings have collapsed: all images look nearly the same to the "
                "network (spread %.3f, healthy: near 1); try another --lr or a larger batch",
                spread,
            )
        # After one epoch the embeddings are still close to those of random weights.
        if epoch > 1 and rank < FEW_DIMENSIONS * most:
            log.warning(
                "warning: the embeddings span few dimensions (effective rank %.1f of at most %d, "
                "healthy: above %.1f); if this lasts, try another --lr or a larger batch",
                rank,
                most,
                FEW_DIMENSIONS * most,
            )

    def _knn(self, probe: Shard) -> float | None:
        # Importing scikit-learn takes a second or two, and most runs do not need it.
        from pretrain.probe import knn_auc

        features = pooled_features(self.trainer.method.encoder.backbone, probe.images, self._device)
        return knn_auc(features, probe)

    def _save(self) -> None:
        """Save everything needed to resume; every process must call it."""
        state = self.trainer.state()
        if self._folder is not None:
            self._folder.write_state(state)
            step, steps = self.trainer.step, self.trainer.steps
            self._folder.status.write(PretrainStatus(state="running", step=step, steps=steps))

    def _write_checkpoint(self) -> None:
        if self._folder is None:
            return
        # The classifier keeps its random weights.
        state = self._whole_state | state_of(self.trainer.method.encoder.backbone)
        epochs = self.trainer.step // self.batches.steps_per_epoch
        provenance = self._provenance.model_copy(update={"epochs": epochs})
        write_checkpoint(self._out, state, self._recipe.architecture, provenance)


def _provenance(recipe: Recipe, shard: Shard, origin: Provenance) -> Provenance:
    init = Path(recipe.init).name  # the path would reveal the machine's folders
    return Provenance(
        method=recipe.method.name,
        preset=recipe.preset,
        data=sha256_of(shard.path / MANIFEST),
        source=shard.manifest.source,
        images=len(shard),
        settings=recipe.model_dump(mode="json") | {"init": init},
        init=init,
        start=None if recipe.init in ("random", "imagenet") else origin,
        seed=recipe.seed,
        versions={name: version(name) for name in ("fedcxr", "numpy", "torch", "torchvision")},
    )
