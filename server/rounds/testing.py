"""Scoring the global model on the server's own test shard."""

from pathlib import Path

import numpy as np
import torch

from common.evaluation import evaluate
from common.model import build_model, choose_device, load_state
from common.options import Architecture
from common.scores import Scores
from common.shard import open_shard
from common.state import State


class Tester:
    """Holds the test shard and a model for the length of a run.

    Args:
        path: A labelled shard.
        architecture: Of the model.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads; 0: all cores.

    Raises:
        BadInput: The shard or the device cannot be used.
    """

    def __init__(self, path: Path, architecture: Architecture, device: str, threads: int) -> None:
        if threads:
            torch.set_num_threads(threads)
        self._device = choose_device(device)
        self._shard = open_shard(path)
        self._shard.labelled()
        self._model = build_model(architecture).to(self._device)

    @property
    def image_size(self) -> int:
        """Pixels along each side of the shard's images."""
        return self._shard.manifest.size

    def __call__(self, state: State) -> Scores:
        """Return the scores of a state on the whole shard."""
        load_state(self._model, state)
        return evaluate(self._model, self._shard, np.arange(len(self._shard)), self._device)
