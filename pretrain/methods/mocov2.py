"""MoCo-v2: He et al. 2020, "Momentum Contrast", and Chen et al. 2020, "Improved Baselines".

A query is to be closer to the key of the same film than to a queue of keys of other films. Keys
come from an encoder that slowly follows the query encoder (MoCo, section 3.2).
"""

import torch
from torch import Tensor, logaddexp, logsumexp
from torch.nn.functional import normalize
from torchvision.models import DenseNet

from common.seeds import generator
from pretrain.distributed import gather, own_rows, processes, rank
from pretrain.methods.base import Method, Outcome, embedding_std
from pretrain.networks import Encoder, follow, follower, mlp, split_batch_norm, take_backbone
from pretrain.recipe import MoCoSettings, Precision


def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Return the InfoNCE loss (MoCo, equation 1).

    With several processes each holds a share of the queue, and every query meets all shares.

    Args:
        query: float32, B x D, normalised; the gradient flows here.
        key: float32, B x D, normalised: the positives.
        queue: float32, K x D, normalised: the negatives, or this process's share of them.
        temperature: Above 0.

    Returns:
        0-d: the mean over the B queries of -log(e^positive / (e^positive + sum e^negatives)).
    """
    positive = (query * key).sum(dim=1) / temperature
    share = logsumexp(gather(query) @ queue.T / temperature, dim=1)
    shares = gather(share.unsqueeze(0))
    negative = own_rows(logsumexp(shares, dim=0))
    return (logaddexp(positive, negative) - positive).mean()


class MoCoV2(Method):
    """MoCo-v2 with a two-layer head (MoCo-v2, section 3) and BatchNorm in groups for the keys.

    Were keys normalised by the statistics of the batch that the queries are normalised by, a query
    could tell its key by them. The authors shuffle the keys between GPUs (MoCo, section 3.3). Here,
    on one GPU or on each, keys are permuted and normalised in small groups, queries all together.
    """

    queue: Tensor
    position: Tensor
    shuffle: Tensor

    def __init__(
        self, model: DenseNet, settings: MoCoSettings, precision: Precision, seed: int, batch: int
    ) -> None:
        super().__init__()
        self.settings = settings
        backbone, width = take_backbone(model)
        head = mlp((width, width, self.settings.dim), seed, "head")
        self.encoder = Encoder(backbone, head, precision)
        self.key_encoder = follower(self.encoder)
        split_batch_norm(self.key_encoder, self.settings.key_groups(batch))

        rng = generator(seed, "queue", rank())
        keys = rng.standard_normal((self.settings.queue // processes(), self.settings.dim))
        self.register_buffer("queue", normalize(torch.from_numpy(keys).float()))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        # The batch comes in another order each time, so that one permutation does for all.
        order = torch.from_numpy(generator(seed, "shuffle").permutation(batch))
        self.register_buffer("shuffle", order, persistent=False)

    def prepare(self, progress: float) -> None:  # noqa: ARG002 - the momentum is constant
        """Let the key encoder follow (MoCo, equation 2), before keys are encoded."""
        follow(self.key_encoder, self.encoder, self.settings.ema)

    def forward(self, views: list[Tensor]) -> Outcome:
        """See :class:`~pretrain.methods.base.Method`; the first view is the query's."""
        query = normalize(self.encoder(views[0]))
        key = self.encode_keys(views[1])
        # A copy: the queue moves on before the backward pass needs what it was.
        queue = self.queue.clone()
        loss = info_nce(query, key, queue, self.settings.temperature)
        self._enqueue(key)
        with torch.no_grad():
            signs = {
                "embedding_std": embedding_std(query),
                "positive_similarity": (query * key).sum(dim=1).mean(),
                "queue_similarity": query.mean(dim=0) @ queue.mean(dim=0),
            }
        return Outcome(loss, signs)

    @torch.no_grad()
    def encode_keys(self, views: Tensor) -> Tensor:
        """Return the keys of views, B x 3 x H x W: float32, B x D, normalised."""
        keys = normalize(self.key_encoder(views[self.shuffle]))
        return torch.empty_like(keys).index_copy_(0, self.shuffle, keys)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """Put keys in the place of the oldest ones (MoCo, section 3.2)."""
        places = torch.arange(len(keys), device=keys.device) + self.position
        self.queue.index_copy_(0, places % len(self.queue), keys)
        self.position.add_(len(keys)).remainder_(len(self.queue))
