"""Encoders (backbone and head), and the EMA of one encoder by another."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torchvision.models import DenseNet

from common.model import seeded_layers
from common.options import Precision


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
        """Return embeddings in float32, for a loss outside autocast.

        Args:
            views: float32, B x 3 x H x W.

        Returns:
            float32, B x D.
        """
        views = views.contiguous(memory_format=torch.channels_last)
        with torch.autocast(views.device.type, torch.bfloat16, enabled=self._autocast):
            embeddings: Tensor = self.head(self.backbone(views))
        return embeddings.float()


def take_backbone(model: DenseNet) -> tuple[DenseNet, int]:
    """Return the model without its classifier, and F, the width of its pooled features."""
    width = model.classifier.in_features
    model.classifier = nn.Identity()
    return model, width


def mlp(widths: tuple[int, int, int], seed: int, name: str, norm: bool = False) -> nn.Sequential:
    """Return a head: a layer, ReLU, a layer, with weights that depend only on the seed.

    Args:
        widths: Widths of input, hidden layer and output.
        seed: The recipe's seed.
        name: Name of the head, different for each head of a method.
        norm: Whether to add BatchNorm before the ReLU. Then no layer has a bias: the first one's
            would have no effect, and the output has none in BYOL's code.
    """
    inputs, hidden, outputs = widths
    with seeded_layers(seed, f"{name} weights"):
        between: list[nn.Module] = [nn.BatchNorm1d(hidden)] if norm else []
        return nn.Sequential(
            nn.Linear(inputs, hidden, bias=not norm),
            *between,
            nn.ReLU(inplace=True),
            nn.Linear(hidden, outputs, bias=not norm),
        )


def follower(encoder: Encoder) -> Encoder:
    """Return a copy of an encoder without gradients."""
    copied = copy.deepcopy(encoder)
    return copied.requires_grad_(False)


@torch.no_grad()
def follow(target: Encoder, online: Encoder, momentum: float) -> None:
    """Update the target's parameters as the EMA of the online encoder's.

    Buffers are not updated: each encoder has its own BatchNorm statistics.
    """
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - momentum)


class SplitBatchNorm(nn.BatchNorm2d):
    """BatchNorm that normalises each group of a batch by the group's statistics.

    The result on one GPU equals BatchNorm on as many GPUs. Running statistics are not kept.
    """

    groups: int

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalise B x C x H x W; each group is B / groups consecutive images."""
        if torch.compiler.is_compiling():
            return self._at_once(input)
        parts = [
            batch_norm(part, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for part in input.chunk(self.groups)
        ]
        return torch.cat(parts)

    def _at_once(self, input: Tensor) -> Tensor:  # noqa: A002
        """Compute the same without a loop: less to compile, but slower if not compiled.

        Computes in float32, groups x B / groups x C x H x W; the result has the input's dtype.
        """
        grouped = torch.unflatten(input, 0, (self.groups, -1)).float()
        var, mean = torch.var_mean(grouped, dim=(1, 3, 4), correction=0, keepdim=True)
        scale = (var + self.eps).rsqrt() * self.weight[:, None, None]
        normal = (grouped - mean) * scale + self.bias[:, None, None]
        return normal.flatten(0, 1).to(input.dtype)


def split_batch_norm(module: nn.Module, groups: int) -> None:
    """Replace every BatchNorm2d in a module by SplitBatchNorm, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            split = SplitBatchNorm(child.num_features, child.eps, track_running_stats=False)
            split.groups = groups
            split.weight, split.bias = child.weight, child.bias
            setattr(module, name, split)
        else:
            split_batch_norm(child, groups)
