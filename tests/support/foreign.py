"""Checkpoints as other tools save them, made from this project's states.

Names are those of: torchvision's DenseNet (``features.denseblock1.denselayer1.norm1``) and its
downloads (``norm.1``; ``_load_state_dict`` in torchvision/models/densenet.py); MONAI's DenseNet121
(``denselayer1.layers.norm1``, ``class_layers.out``; monai/networks/nets/densenet.py).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from common.foreign import CHILDREN
from common.model import build_model, state_of

TINY = {
    name: torch.from_numpy(array)
    for name, array in state_of(build_model("densenet-tiny", 7)).items()
}
"""A tiny network's tensors, under torchvision's names."""

FEATURES = {name: tensor for name, tensor in TINY.items() if name.startswith("features.")}

WIDTH = TINY["classifier.weight"].shape[1]


def trained(tensors: Mapping[str, Tensor], batches: int = 90) -> dict[str, Tensor]:
    """Return tensors whose BatchNorm layers have counted batches, as torch does since 0.4.1."""
    return {
        name: torch.tensor(batches) if name.endswith("num_batches_tracked") else tensor
        for name, tensor in tensors.items()
    }


def uncounted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without the counts of batches, as torch saved them until 0.4.1."""
    return {n: tensor for n, tensor in tensors.items() if not n.endswith("num_batches_tracked")}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def old_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _renamed(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", tensors)


def monai_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _renamed(r"(denselayer\d+)", r"\1.layers", tensors)


def bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the features as ``model.features.state_dict()`` names them."""
    return _renamed(r"^features\.", "", tensors)


def numbered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the features as ``nn.Sequential(*model.features.children())`` names them."""
    return {
        re.sub(r"^\w+", lambda match: str(CHILDREN.index(match[0])), name): tensor
        for name, tensor in bare(tensors).items()
    }


def head(outputs: int, name: str = "classifier", seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{name}.weight": torch.randn(outputs, WIDTH, generator=generator),
        f"{name}.bias": torch.randn(outputs, generator=generator),
    }


def _renamed(pattern: str, new: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {re.sub(pattern, new, name): tensor for name, tensor in tensors.items()}
