"""The loop that pretrains: one for all methods, on a CPU, a GPU or several."""

import logging
import math
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, Never, assert_never

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torchvision.models import DenseNet
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common.checkpoint import Provenance, write_checkpoint
from common.data.shard import MANIFEST, Shard
from common.errors import BadInput
from common.files import sha256_of
from common.initial import initial_state
from common.model import build_model, load_state, normalised, state_of
from pretrain.augment import make_view
from pretrain.batches import Batches, Part
from pretrain.distributed import first_says, gather, mean_over_processes, processes, rank
from pretrain.methods.base import Method, Outcome
from pretrain.methods.byol import BYOL
from pretrain.methods.mocov2 import MoCoV2
from pretrain.methods.rotation import Rotation
from pretrain.methods.simclr import SimCLR
from pretrain.networks import Encoder
from pretrain.optimizers import learning_rate, make_optimizer
from pretrain.probe import knn_auc, pooled_features
from pretrain.recipe import (
    BYOLSettings,
    MoCoSettings,
    Recipe,
    RotationSettings,
    SimCLRSettings,
)
from pretrain.run_folder import RunFolder

LOG_EVERY = 10
"""Steps between two looks at the loss: a look waits for the device."""

SAVE_SECONDS = 120
"""Between two saves of the trainer's state within an epoch."""

COLLAPSED = 0.02
"""Spread of embeddings below which a method is said to have collapsed; see embedding_std."""

log = logging.getLogger(__name__)


def make_method(recipe: Recipe, model: DenseNet) -> Method:
    """Return the recipe's method around a model's backbone."""
    settings, precision, seed = recipe.method, recipe.precision, recipe.seed
    match settings:
        case MoCoSettings():
            return MoCoV2(model, settings, precision, seed, recipe.part(processes()))
        case SimCLRSettings():
            return SimCLR(model, settings, precision, seed)
        case BYOLSettings():
            return BYOL(model, settings, precision, seed)
        case RotationSettings():
            return Rotation(model, precision, seed)
    assert_never(settings)


class Engine:
    """Trains a method and keeps what it learns.

    Args:
        recipe: Decides the result.
        shard: Its images are pretrained on; its labels, if it has any, are not looked at.
        out: The checkpoint.
        device: What to compute on.
        folder: Where metrics and state go; None in all processes but the first.
        compiled: Whether the networks are compiled.
        probe: A labelled shard for k-NN, or None.
        probe_every: Epochs between two probes.

    Attributes:
        batches: Where its steps come from.
        method: What it trains; its backbone is the result.
        optimizer: Of the method's parameters.
        steps: Of the whole training.

    Raises:
        BadInput: The recipe does not fit the shard, or what it starts from cannot be had.
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
        self.batches = Batches(shard.images, recipe, device)
        self.steps = recipe.epochs * self.batches.steps_per_epoch
        self._step = 0

        state, origin = initial_state(recipe.init, recipe.architecture, recipe.seed)
        model = build_model(recipe.architecture, recipe.seed)
        load_state(model, state)
        self._whole_state = state
        self.method = make_method(recipe, model).to(device)
        if isinstance(recipe.method, SimCLRSettings) and processes() > 1 and device.type == "cuda":
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.method)  # type: ignore[no-untyped-call]
        self.method.train()
        self.optimizer = make_optimizer(self.method, recipe.optimizer)
        self._provenance = _provenance(recipe, shard, origin)
        torch.backends.cudnn.benchmark = True  # all steps have the same shapes
        if compiled:
            for module in self.method.modules():
                if isinstance(module, Encoder):
                    module.compile(dynamic=False)
        self._forward: torch.nn.Module = self.method
        if processes() > 1:
            # Weights follow from the seed, and buffers are each process's own.
            self._forward = DistributedDataParallel(
                self.method, broadcast_buffers=False, init_sync=False, gradient_as_bucket_view=True
            )

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`_save` wrote.

        Raises:
            BadInput: It is of another number of processes.
        """
        if state["processes"] != processes():
            raise BadInput(
                f"--resume: the run has {state['processes']} processes, now there are "
                f"{processes()}; start as many"
            )
        own = {name: buffer[rank()] for name, buffer in state["buffers"].items()}
        self.method.load_state_dict(state["parameters"] | own)
        self.optimizer.load_state_dict(state["optimizer"])
        self._step = state["step"]

    def run(self) -> None:
        """Train to the end.

        Raises:
            BadInput: The loss is not finite; the last good checkpoint is kept.
        """
        recipe = self._recipe
        bar = tqdm(
            total=self.steps * recipe.images_per_step,
            initial=self._step * recipe.images_per_step,
            unit=" images",
            unit_scale=True,
            desc=recipe.method.name,
            disable=True if rank() else None,
        )
        with logging_redirect_tqdm(), bar:
            self._train(bar)
        if not self._out.exists():
            self._write_checkpoint()

    def _train(self, bar: "tqdm[Never]") -> None:
        per_epoch = self.batches.steps_per_epoch
        pending: list[Outcome] = []
        losses: list[float] = []
        saved = started = time.monotonic()
        for parts in self.batches.steps(self._step, self.steps):
            rate = self.take_step(parts, pending)
            ends_epoch = self._step % per_epoch == 0
            if len(pending) < LOG_EVERY and not ends_epoch:
                continue
            line = self._look(pending)
            seconds = time.monotonic() - started
            line["lr"] = rate
            line["images_per_second"] = len(pending) * self._recipe.images_per_step / seconds
            losses.append(line["loss"])
            bar.update(len(pending) * self._recipe.images_per_step)
            bar.set_postfix(loss=f"{line['loss']:.4f}", lr=f"{rate:.2g}", refresh=False)
            pending.clear()
            late = first_says(time.monotonic() - saved > SAVE_SECONDS, self._device)
            if ends_epoch or late:
                self._check_weights()
            if ends_epoch:
                self._end_epoch(line, losses)
                losses.clear()
            if self._folder is not None:
                self._folder.write_metrics(line)
            if ends_epoch:
                self._write_checkpoint()
            if ends_epoch or late:
                self._save()
                saved = time.monotonic()
            started = time.monotonic()

    def take_step(self, parts: Iterable[Part], pending: list[Outcome]) -> float:
        """Take a step of the optimiser; nothing in it waits for the device.

        With a batch in parts, each part has negatives and BatchNorm statistics of its own, so that
        the result is not that of the whole batch.

        Args:
            parts: The batch.
            pending: What came of it is appended.

        Returns:
            The learning rate.
        """
        recipe = self._recipe
        rate = learning_rate(self._step, self.steps, recipe.lr, recipe.optimizer.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.method.prepare(self._step / self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        outcomes = []
        for number, part in enumerate(parts, start=1):
            with self._gradients_stay(number < recipe.accumulate):
                outcome: Outcome = self._forward(self.views(part))
                (outcome.loss / recipe.accumulate).backward()  # type: ignore[no-untyped-call]
            outcomes.append(outcome)
        self.optimizer.step()
        pending.append(_mean(outcomes))
        self._step += 1
        return rate

    def views(self, part: Part) -> list[Tensor]:
        """Return the views of a part's images as the networks see them: float32, B x 3 x C x C."""
        size = self._recipe.image_size
        return [
            normalised(make_view(part.images, draws, size, settings))
            for draws, settings in zip(part.draws, self._recipe.views, strict=True)
        ]

    def _gradients_stay(self, more: bool) -> AbstractContextManager[None]:
        """Return a context in which gradients are kept to this process if more are to come."""
        if more and isinstance(self._forward, DistributedDataParallel):
            return self._forward.no_sync()
        return nullcontext()

    def _look(self, pending: list[Outcome]) -> dict[str, Any]:
        """Fetch losses and signs from the device and return a line of metrics.

        Raises:
            BadInput: A loss is not finite; names the step.
        """
        names = list(pending[0].signs)
        losses = torch.stack([outcome.loss for outcome in pending])
        signs = torch.stack([torch.stack(list(outcome.signs.values())) for outcome in pending])
        fetched = mean_over_processes(torch.cat([losses, signs.mean(dim=0)])).tolist()
        values = fetched[: len(pending)]
        for step, value in enumerate(values, start=self._step - len(pending) + 1):
            if not math.isfinite(value):
                raise BadInput(
                    f"step {step} of {self.steps}: the loss is {value}; {self._remedy()}"
                )
        line = {
            "step": self._step,
            "epoch": self._step / self.batches.steps_per_epoch,
            "loss": sum(values) / len(values),
        }
        return line | dict(zip(names, fetched[len(pending) :], strict=True))

    def _check_weights(self) -> None:
        """Look at what is about to be kept; a finite loss says nothing about the step after it.

        Raises:
            BadInput: A weight or a buffer is not finite.
        """
        tensors = [t for t in self.method.state_dict().values() if t.is_floating_point()]
        norm = mean_over_processes(torch.stack(torch._foreach_norm(tensors)).sum())
        if not math.isfinite(float(norm)):
            raise BadInput(
                f"step {self._step} of {self.steps}: weights are not finite; {self._remedy()}"
            )

    def _remedy(self) -> str:
        epochs = (self._step - 1) // self.batches.steps_per_epoch
        kept = f"{self._out} keeps epoch {epochs}" if epochs else "no epoch was finished"
        return f"{kept}; begin anew, under another --out, with a lower --lr"

    def _end_epoch(self, line: dict[str, Any], losses: list[float]) -> None:
        epoch = self._step // self.batches.steps_per_epoch
        spread = line["embedding_std"]
        words = ""
        due = epoch % self._probe_every == 0 or epoch == self._recipe.epochs
        if self._probe is not None and self._folder is not None and due:
            line["knn_auc"] = self._knn(self._probe)
            words = f", k-NN AUC {line['knn_auc']:.3f}" if line["knn_auc"] is not None else ""
        if self._folder is None:
            return
        log.info(
            "epoch %d of %d: loss %.4f, spread of embeddings %.3f%s, %.0f images/s",
            epoch,
            self._recipe.epochs,
            sum(losses) / len(losses),
            spread,
            words,
            line["images_per_second"],
        )
        if spread < COLLAPSED:
            log.warning(
                "warning: the embeddings have collapsed: all images look nearly the same to the "
                "network (spread %.3f, healthy: near 1); try another --lr or more images a batch",
                spread,
            )

    def _knn(self, probe: Shard) -> float | None:
        features = pooled_features(self.method.encoder.backbone, probe.images, self._device)
        return knn_auc(features, probe)

    def _save(self) -> None:
        """Keep all that is needed to go on; every process has to call it."""
        parameters = {name: p.detach() for name, p in self.method.named_parameters()}
        buffers = {
            name: gather(tensor.unsqueeze(0))
            for name, tensor in self.method.state_dict().items()
            if name not in parameters
        }
        if self._folder is None:
            return
        self._folder.write_state(
            {
                "step": self._step,
                "processes": processes(),
                "parameters": parameters,
                "buffers": buffers,
                "optimizer": self.optimizer.state_dict(),
            }
        )
        self._folder.write_status("running", step=self._step, steps=self.steps)

    def _write_checkpoint(self) -> None:
        if self._folder is None:
            return
        # The classifier is the one that it began with.
        state = self._whole_state | state_of(self.method.encoder.backbone)
        epochs = self._step // self.batches.steps_per_epoch
        provenance = self._provenance.model_copy(update={"epochs": epochs})
        write_checkpoint(self._out, state, self._recipe.architecture, provenance)


def _mean(outcomes: list[Outcome]) -> Outcome:
    """Return the mean over the parts of a batch, without gradient."""

    def mean(tensors: list[Tensor]) -> Tensor:
        return torch.stack(tensors).mean(dim=0).detach()

    signs = {name: mean([o.signs[name] for o in outcomes]) for name in outcomes[0].signs}
    return Outcome(mean([outcome.loss for outcome in outcomes]), signs)


def _provenance(recipe: Recipe, shard: Shard, origin: Provenance) -> Provenance:
    return Provenance(
        method=recipe.method.name,
        preset=recipe.preset,
        data=sha256_of(shard.path / MANIFEST),
        source=shard.manifest.source,
        images=len(shard),
        settings=recipe.model_dump(mode="json"),
        init=Path(recipe.init).name,
        start=None if recipe.init in ("random", "imagenet") else origin,
        seed=recipe.seed,
        versions={name: version(name) for name in ("fedcxr", "numpy", "torch", "torchvision")},
    )
