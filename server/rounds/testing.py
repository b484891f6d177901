"""Scoring the global model on the server's own test shard."""

from pathlib import Path

import numpy as np
import torch

from common.evaluation import scores_of
from common.findings import UNKNOWN
from common.frozen import FrozenFeatures
from common.model import build_model, choose_device, load_state
from common.options import Architecture, Mode
from common.scores import Scores
from common.shard import open_shard
from common.state import State, select
from common.wire import fingerprint, pack


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
        self._model = build_model(architecture).to(self._device)

    @property
    def image_size(self) -> int:
        """Pixels along each side of the shard's images."""
        return self._shard.manifest.size

    def __call__(self, state: State) -> Scores:
        """Return the scores of a state on the images of the shard that have a known label."""
        load_state(self._model, state)
        backbone = fingerprint(pack(select(state, "backbone"))) if self._frozen else None
        logits = self._features.predict(
            self._model, self._shard, self._known, self._device, backbone
        )
        return scores_of(self._labels, logits)
