"""Backbones with a head on top, and how one encoder follows another."""

import copy

import torch
from torch import Tensor, nn
from torchvision.models import DenseNet

from common.model import seeded_layers
from pretrain.recipe import Precision


class Encoder(nn.Module):
    """A backbone and a head, computed in the chosen precision.

    Args:
        backbone: B x 3 x H x W to B x F.
        head: B x F to B x D.
        precision: ``bf16`` runs both under autocast.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._autocast = precision == "bf16"

    def forward(self, views: Tensor) -> Tensor:
        """Return embeddings in full precision, for a loss outside autocast.

        Args:
            views: float32, B x 3 x H x W.

        Returns:
            float32, B x D.
        """
        views = views.contiguous(memory_format=torch.channels_last)
        with torch.autocast(views.device.type, torch.bfloat16, enabled=self._autocast):
            embeddings: Tensor = self.head(self.backbone(views))
        return embeddings.float()


def is_fast_in_bf16(device: torch.device) -> bool:
    """Return whether a device computes in bf16; one without emulates it.

    A CPU that emulates it is far slower than in fp32, with AVX512 as with AVX2.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # bf16: ARM


def take_backbone(model: DenseNet) -> tuple[DenseNet, int]:
    """Return the model without its classifier, and F, the width of its pooled features."""
    width = model.classifier.in_features
    model.classifier = nn.Identity()
    return model, width


def mlp(widths: tuple[int, int, int], seed: int, name: str, norm: bool = False) -> nn.Sequential:
    """Return a head: a layer, ReLU, a layer, with weights that depend on the seed alone.

    Args:
        widths: Of input, inside and output.
        seed: The recipe's seed.
        name: Tells the heads of one method apart.
        norm: BatchNorm before the ReLU, and then no bias before that.
    """
    inputs, hidden, outputs = widths
    with seeded_layers(seed, f"{name} weights"):
        between: list[nn.Module] = [nn.BatchNorm1d(hidden)] if norm else []
        return nn.Sequential(
            nn.Linear(inputs, hidden, bias=not norm),
            *between,
            nn.ReLU(inplace=True),
            nn.Linear(hidden, outputs),
        )


def follower(encoder: Encoder) -> Encoder:
    """Return a copy of an encoder that no gradient reaches."""
    copied = copy.deepcopy(encoder)
    return copied.requires_grad_(False)


@torch.no_grad()
def follow(target: Encoder, online: Encoder, momentum: float) -> None:
    """Move the target's parameters towards the online encoder's: their EMA.

    Parameters only: each encoder's BatchNorm has statistics of its own.
    """
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - momentum)


def forget_statistics(module: nn.Module) -> None:
    """Let every BatchNorm below a module normalise by its input alone, and keep no statistics."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.track_running_stats = False
            child.running_mean = child.running_var = child.num_batches_tracked = None
