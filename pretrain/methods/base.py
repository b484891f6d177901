"""Interface between engine and methods, and a sign of collapse."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain.networks import Encoder


class Outcome(NamedTuple):
    """A method's result for a batch, on the device.

    Attributes:
        loss: 0-d, mean over the images.
        signs: 0-d tensors for the metrics by name, without gradient.
    """

    loss: Tensor
    signs: dict[str, Tensor]


class Method(nn.Module):
    """A pretraining method: networks, loss, and state that is not updated by gradients.

    A method is created from the model whose backbone is pretrained, its settings, the precision of
    the networks and the seed of its heads; MoCo-v2 also needs the batch size of one process.

    Attributes:
        encoder: Encoder with the backbone that is pretrained.
    """

    encoder: Encoder

    def prepare(self, progress: float) -> None:
        """Prepare a step, for example move a slow encoder; ``progress`` runs from 0 to 1."""

    def forward(self, views: list[Tensor], patients: Tensor) -> Outcome:
        """Return the loss of a batch.

        Args:
            views: One float32 tensor, B x 3 x H x W, for each view of the recipe.
            patients: int64, B: number of each image's patient, at least 0.
        """
        raise NotImplementedError


@torch.no_grad()
def embedding_std(embeddings: Tensor) -> Tensor:
    """Return the spread of embeddings over the sphere: 1 if even, 0 if all are the same.

    The standard deviation over the batch of each coordinate of the normalised embeddings, averaged
    and multiplied by the square root of their width (Chen & He 2021, "SimSiam", section 4.1).

    Args:
        embeddings: float32, B x D.
    """
    spread: Tensor = normalize(embeddings).std(dim=0).mean() * embeddings.shape[1] ** 0.5
    return spread
