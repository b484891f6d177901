"""The first weights of a run: random, ImageNet's or a checkpoint's."""

from pathlib import Path
from urllib.error import URLError

import torch
from torchvision.models import DenseNet121_Weights

from common.checkpoint import Provenance, fit_state, read_checkpoint
from common.errors import BadInput
from common.model import Architecture, build_model, state_of
from common.wire import State


def initial_state(init: str, architecture: Architecture, seed: int) -> tuple[State, Provenance]:
    """Return the first weights and where they come from.

    Args:
        init: ``random``, ``imagenet`` (torchvision's weights, from its cache or downloaded into
            it), or the path of a checkpoint.
        architecture: What it must be.
        seed: Of random weights; for the others, of the head.

    Raises:
        BadInput: The checkpoint or the download cannot be had or does not fit.
    """
    if init == "random":
        state = state_of(build_model(architecture, seed))
        return state, Provenance(method="random", init=init, seed=seed)
    if init == "imagenet":
        state = fit_state(_imagenet(architecture), architecture, seed, "ImageNet's weights")
        return state, Provenance(method="imagenet", init=init, seed=seed)
    state, provenance = read_checkpoint(Path(init), architecture, seed)
    return state, provenance or Provenance(method="checkpoint")


def _imagenet(architecture: Architecture) -> dict[str, torch.Tensor]:
    weights = DenseNet121_Weights.IMAGENET1K_V1
    if architecture != "densenet121":
        raise BadInput(f"--init imagenet: there are no such weights for {architecture}")
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (URLError, OSError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        reason = getattr(error, "reason", error)
        raise BadInput(
            f"--init imagenet: {weights.url} cannot be downloaded ({reason}); put it at {cache} "
            "by hand, or give --init random or a checkpoint"
        ) from None
