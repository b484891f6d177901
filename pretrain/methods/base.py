"""What the engine asks of a method, and the signs of its health."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain.networks import Encoder


class Outcome(NamedTuple):
    """What a method makes of a batch; all of it stays on the device.

    Attributes:
        loss: 0-d, mean over the images.
        signs: Name to 0-d tensor, without gradient, for the metrics.
    """

    loss: Tensor
    signs: dict[str, Tensor]


class Method(nn.Module):
    """A method of pretraining: networks, loss and whatever moves beside the gradient.

    Each is made of the model whose backbone is pretrained, its own settings, the precision of the
    networks and the seed of its heads; MoCo-v2 also of the images that are computed at a time.

    Attributes:
        encoder: Its backbone is what the pretraining is for.
    """

    encoder: Encoder

    def prepare(self, progress: float) -> None:
        """Do what has to be done before a step; ``progress`` runs from 0 to 1."""

    def forward(self, views: list[Tensor]) -> Outcome:
        """Return the loss of a batch.

        Args:
            views: One float32 tensor, B x 3 x H x W, for each view of the recipe.
        """
        raise NotImplementedError


@torch.no_grad()
def embedding_std(embeddings: Tensor) -> Tensor:
    """Return how far embeddings spread over the sphere: 1 evenly, 0 when all are the same.

    The standard deviation over the batch of each coordinate of the normalised embeddings, averaged
    and times the square root of their width (Chen & He 2021, "SimSiam", section 4.1).

    Args:
        embeddings: float32, B x D.
    """
    spread: Tensor = normalize(embeddings).std(dim=0).mean() * embeddings.shape[1] ** 0.5
    return spread
