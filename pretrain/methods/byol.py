"""BYOL: Grill et al. 2020, "Bootstrap Your Own Latent".

A predictor on top of one view's projection learns to match the other view's projection by a slow
target network. There are no negatives.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torchvision.models import DenseNet

from common.options import Precision
from pretrain.methods.base import Method, Outcome, embedding_std
from pretrain.networks import Encoder, follow, follower, mlp, take_backbone
from pretrain.recipe import BYOLSettings


def regression_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the squared distance of normalised vectors (BYOL, equation 2).

    Args:
        prediction: float32, B x D; the gradient flows here.
        target: float32, B x D; no gradient flows here.

    Returns:
        0-d in [0, 4]: the mean over the batch of 2 - 2 cos.
    """
    return (2 - 2 * cosine_similarity(prediction, target.detach(), dim=1)).mean()


def target_momentum(start: float, progress: float) -> float:
    """Return the target's momentum: from ``start`` to 1 on a cosine (BYOL, section 3.3)."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


class BYOL(Method):
    """BYOL with projector and predictor (BYOL, sections 3.1 and 3.3)."""

    def __init__(
        self, model: DenseNet, settings: BYOLSettings, precision: Precision, seed: int
    ) -> None:
        super().__init__()
        self.settings = settings
        hidden, dim = self.settings.hidden, self.settings.dim
        backbone, width = take_backbone(model)
        projector = mlp((width, hidden, dim), seed, "projector", norm=True)
        self.encoder = Encoder(backbone, projector, precision)
        self.predictor = mlp((dim, hidden, dim), seed, "predictor", norm=True)
        self.target = follower(self.encoder)

    def prepare(self, progress: float) -> None:
        """Move the target network towards the encoder (BYOL, equation 1)."""
        follow(self.target, self.encoder, target_momentum(self.settings.ema, progress))

    def forward(self, views: list[Tensor], patients: Tensor) -> Outcome:  # noqa: ARG002
        """See :class:`~pretrain.methods.base.Method`; each view is a separate batch.

        The loss is symmetric: each view is predicted from the other (BYOL, section 3.1).
        """
        first, second = (self.encoder(view) for view in views)
        with torch.no_grad():
            first_target, second_target = (self.target(view) for view in views)
        predictions = self.predictor(first), self.predictor(second)
        loss = regression_loss(predictions[0], second_target)
        loss = loss + regression_loss(predictions[1], first_target)
        with torch.no_grad():
            signs = {
                "embedding_std": embedding_std(first),
                "positive_similarity": cosine_similarity(first, second).mean(),
            }
        return Outcome(loss, signs)
