"""The initial weights of a run: random, from ImageNet or from a checkpoint."""

from http.client import HTTPException
from pathlib import Path

import torch
from torchvision.models import DenseNet121_Weights

from common.checkpoint import read_checkpoint
from common.errors import BadInput
from common.model import build_model, state_of
from common.options import Architecture, HeadChoice
from common.provenance import Provenance
from common.state import State

IMAGENET = DenseNet121_Weights.IMAGENET1K_V1.url
"""URL of the weights. The file name ends with the first digits of its SHA-256."""


def initial_state(
    init: str, architecture: Architecture, seed: int, head: HeadChoice | None = None
) -> tuple[State, Provenance]:
    """Return the initial weights and their provenance.

    Args:
        init: ``random``, ``imagenet`` (torchvision's weights, from its cache or downloaded into
            it), or the path of a checkpoint.
        architecture: Architecture of the model.
        seed: Seed of random weights; otherwise of a random head.
        head: Whether to keep a checkpoint's head; None: refuse it if its findings cannot be known.

    Raises:
        BadInput: The checkpoint or the download is not available or does not fit, or there is no
            head to keep.
    """
    if init in ("random", "imagenet") and head == "keep":
        raise BadInput(f"--head keep: --init {init} has no head of the findings; leave it out")
    if init == "random":
        state = state_of(build_model(architecture, seed))
        return state, Provenance(method="random", init=init, seed=seed)
    if init == "imagenet":
        state, _ = read_checkpoint(_imagenet_file(architecture), architecture, seed, "replace")
        return state, Provenance(method="imagenet", init=init, seed=seed)
    return read_checkpoint(Path(init), architecture, seed, head)


def _imagenet_file(architecture: Architecture) -> Path:
    if architecture != "densenet121":
        raise BadInput(f"--init imagenet: there are no ImageNet weights for {architecture}")
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(IMAGENET).name
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(IMAGENET, str(file), file.stem.rpartition("-")[2])
        except (OSError, HTTPException, RuntimeError) as error:
            reason = getattr(error, "reason", error)
            raise BadInput(
                f"--init imagenet: {IMAGENET} cannot be downloaded ({reason}); put it at "
                f"{file} by hand, or give --init random or a checkpoint"
            ) from None
    return file
