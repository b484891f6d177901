"""Scoring the global model on the server's own test shard."""

import logging
from pathlib import Path

import numpy as np
import torch

from common.evaluation import scores_of
from common.findings import UNKNOWN
from common.frozen import FrozenFeatures
from common.model import build_model, choose_device, is_out_of_memory, load_state
from common.options import Architecture, Mode
from common.resident import give_memory_back
from common.scores import Scores
from common.shard import open_shard
from common.state import State, select
from common.wire import fingerprint, pack

log = logging.getLogger(__name__)

CPU = torch.device("cpu")


class Tester:
    """Holds the test shard and a model for the length of a run.

    Args:
        path: A labelled shard.
        architecture: Of the model.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads; 0: all cores.
        mode: Of the training: in linear mode the backbone runs once.

    Raises:
        BadInput: The shard or the device cannot be used.
    """

    def __init__(
        self,
        path: Path,
        architecture: Architecture,
        device: str,
        threads: int,
        mode: Mode = "finetune",
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        self._device = choose_device(device)
        self._shard = open_shard(path)
        labels = self._shard.labelled()
        self._known = np.flatnonzero((labels != UNKNOWN).any(axis=1))
        self._labels = labels[self._known]
        self._frozen = mode == "linear"
        self._features = FrozenFeatures()
        self._architecture = architecture
        self._model = build_model(architecture)

    @property
    def image_size(self) -> int:
        """Pixels along each side of the shard's images."""
        return self._shard.manifest.size

    def __call__(self, state: State) -> Scores:
        """Return the scores of a state on the images of the shard that have a known label.

        Hospitals on the same machine may have the accelerator's memory: if it fails, the CPU scores
        this model, or all of them if it is of no more use to this process.
        """
        logits = None
        try:
            logits = self._logits(state, self._device)
        except RuntimeError as error:  # of torch; out of memory and cuDNN's are such
            if self._device.type == "cpu":
                raise
            name = type(error).__name__
            log.warning("--test: %s failed (%s); the CPU takes over", self._device, name)
            for_good = isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)
        if logits is None:  # outside `except`, whose traceback keeps the accelerator's tensors
            self._model = build_model(self._architecture)
            logits = self._logits(state, CPU)
            give_memory_back(self._device)
            self._device = CPU if for_good else self._device
        give_memory_back(self._device)
        return scores_of(self._labels, logits)

    def _logits(self, state: State, device: torch.device) -> torch.Tensor:
        load_state(self._model.to(device), state)
        backbone = fingerprint(pack(select(state, "backbone"))) if self._frozen else None
        found = self._features.predict(self._model, self._shard, self._known, device, backbone)
        return found.cpu()
