"""Changes of real training, kept and added again later in place of the training."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.wire import SEED, updates_of
from common.findings import FINDINGS
from common.frozen import FrozenFeatures
from common.model import build_model, load_state, state_of
from common.protocol import Instruction
from common.state import spec_of
from common.wire import pack, unpack
from server.strategies.base import weighted_mean

ROUNDS = 2


def make_changes(shards: list[Path], out: Path) -> float:
    """Keep the changes that hospitals make of a DenseNet-121 in each round.

    Args:
        shards: The hospitals'.
        out: An empty folder.

    Returns:
        The seconds of the slowest in a round, for scoring and training; mean over the rounds.
    """
    state = state_of(build_model("densenet121", SEED))
    slowest = []
    for number in range(1, ROUNDS + 1):
        updates = updates_of(shards, state, number)
        for path, update in zip(shards, updates, strict=True):
            change = {name: array - state[name] for name, array in update.state.items()}
            change_file(out, path.name, number).write_bytes(pack(change))
        slowest.append(max(update.seconds for update in updates))
        state = weighted_mean(state, [(update.state, update.films) for update in updates])
    return fmean(slowest)


def change_file(folder: Path, name: str, number: int) -> Path:
    """Return where a hospital's change of a round is kept."""
    return folder / f"{name}-{number}.safetensors"


def replay(changes: str) -> None:
    """Let the hospital of this process add the changes that were kept, and score no film."""

    def train(
        model: torch.nn.Module, _shard: object, _chosen: object, instruction: Instruction,
        name: str, *_: object,
    ) -> float:  # fmt: skip
        before = state_of(model)
        file = change_file(Path(changes), name, instruction.identity.round)
        change = unpack(file.read_bytes(), spec_of(before))
        after = {name: np.asarray(array + change[name]) for name, array in before.items()}
        for name, array in after.items():
            if name.endswith("running_var"):  # of other hospitals than the change was made with
                np.maximum(array, 0, out=array)
        load_state(model, after)
        return 0.2

    def predict(
        _self: object, _model: object, _shard: object, indices: Sequence[int], *_: object
    ) -> torch.Tensor:
        return torch.zeros(len(indices), len(FINDINGS))

    patch("client.computing.train", train).start()
    patch.object(FrozenFeatures, "predict", predict).start()
