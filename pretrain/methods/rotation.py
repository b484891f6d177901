"""Rotation: Gidaris et al. 2018, "Unsupervised Representation Learning by Predicting Rotations".

The network classifies each film, upright and rotated by 90, 180 and 270 degrees, by its angle.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import DenseNet

from common.model import seeded_layers
from common.options import Precision
from pretrain.methods.base import Method, Outcome, embedding_std
from pretrain.networks import Encoder, take_backbone

ANGLES = 4


def turn(views: Tensor) -> tuple[Tensor, Tensor]:
    """Return all four rotations of each image and their labels (Gidaris et al., section 2.1).

    All four are in one batch, which the paper found best (section 3.1).

    Args:
        views: B x 3 x H x H.

    Returns:
        4B x 3 x H x H, and int64, 4B: label r for a rotation by r x 90 degrees, counter-clockwise.
    """
    turned = torch.cat([views.rot90(r, dims=(2, 3)) for r in range(ANGLES)])
    return turned, torch.arange(ANGLES, device=views.device).repeat_interleave(len(views))


class Rotation(Method):
    """Rotation prediction with a linear head on the pooled features."""

    def __init__(self, model: DenseNet, precision: Precision, seed: int) -> None:
        super().__init__()
        backbone, width = take_backbone(model)
        with seeded_layers(seed, "head weights"):
            head = nn.Linear(width, ANGLES)
        self.encoder = Encoder(backbone, head, precision)

    def forward(self, views: list[Tensor], patients: Tensor) -> Outcome:  # noqa: ARG002
        """See :class:`~pretrain.methods.base.Method`; there is one view."""
        turned, labels = turn(views[0])
        logits = self.encoder(turned)
        loss = cross_entropy(logits, labels)
        with torch.no_grad():
            signs = {
                "embedding_std": embedding_std(logits),
                "accuracy": (logits.argmax(dim=1) == labels).float().mean(),
            }
        return Outcome(loss, signs)
