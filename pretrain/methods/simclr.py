"""SimCLR: Chen et al. 2020, "A Simple Framework for Contrastive Learning".

The two views of a film learn to be closer to each other than to the views of the batch's other
films.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torchvision.models import DenseNet

from common.options import Precision
from pretrain.distributed import gather, own_rows
from pretrain.methods.base import Method, Outcome, embedding_std
from pretrain.networks import Encoder, mlp, take_backbone
from pretrain.recipe import SimCLRSettings


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the normalised temperature-scaled cross entropy (SimCLR, equation 1, algorithm 1).

    The denominator of a view sums over all views except itself, from all processes.

    Args:
        first: float32, B x D, normalised: one view of each image.
        second: float32, B x D, normalised: the other view, in the same order.
        temperature: Above 0.

    Returns:
        0-d: the mean over this process's 2B views.
    """
    n = len(first)
    own = torch.cat([first, second])
    gathered = gather(own)
    logits = own @ gathered.T / temperature
    columns = torch.arange(len(gathered), device=own.device)
    itself = own_rows(columns)
    logits = logits.masked_fill(columns == itself.unsqueeze(1), -torch.inf)
    return cross_entropy(logits, itself.roll(n))


class SimCLR(Method):
    """SimCLR with a two-layer head (SimCLR, section 4.2)."""

    def __init__(
        self, model: DenseNet, settings: SimCLRSettings, precision: Precision, seed: int
    ) -> None:
        super().__init__()
        self.settings = settings
        backbone, width = take_backbone(model)
        head = mlp((width, width, self.settings.dim), seed, "head")
        self.encoder = Encoder(backbone, head, precision)

    def forward(self, views: list[Tensor], patients: Tensor) -> Outcome:  # noqa: ARG002
        """See :class:`~pretrain.methods.base.Method`; both views are one batch.

        The trainer makes BatchNorm span all GPUs (SimCLR, section 2.2, global BN).
        """
        first, second = normalize(self.encoder(torch.cat(views))).chunk(2)
        loss = nt_xent(first, second, self.settings.temperature)
        with torch.no_grad():
            n = len(first)
            positives = (first * second).sum()
            negatives = first.sum(dim=0) @ second.sum(dim=0) - positives
            signs = {
                "embedding_std": embedding_std(first),
                "positive_similarity": positives / n,
                "negative_similarity": negatives / (n * (n - 1)),
            }
        return Outcome(loss, signs)
