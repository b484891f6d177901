"""MoCo-v2: He et al. 2020, "Momentum Contrast", and Chen et al. 2020, "Improved Baselines".

A query learns to be closer to the key of the same film than to a queue of keys of other films.
Keys come from an encoder that slowly follows the query encoder (MoCo, section 3.2).

Unlike the authors' queue, ours knows its keys' patients: older keys of a query's own film, and keys
of other films of its patient, are not its negatives. A queue of K among N films holds a query's own
older key with a chance of about (K / N)^2 / 2: 0.1 % on ImageNet, but 29 % on ChestX-ray14.
"""

import torch
from torch import Tensor, logaddexp, logsumexp
from torch.nn.functional import normalize
from torchvision.models import DenseNet

from common.options import Precision
from common.seeds import generator
from pretrain.distributed import gather, own_rows, processes, rank
from pretrain.methods.base import Method, Outcome, embedding_std
from pretrain.networks import Encoder, follow, follower, mlp, split_batch_norm, take_backbone
from pretrain.recipe import MoCoSettings

NOBODY = -1
"""Patient of the random keys that fill the queue at first."""


def info_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    patients: Tensor,
    queue_patients: Tensor,
    temperature: float,
) -> Tensor:
    """Return the InfoNCE loss (MoCo, equation 1).

    With several processes, each has a share of the queue; queries are compared with all shares.

    Args:
        query: float32, B x D, normalised; the gradient flows here.
        key: float32, B x D, normalised: the positives.
        queue: float32, K x D, normalised: the negatives, or this process's share of them.
        patients: int64, B: the queries' patients.
        queue_patients: int64, K: the patients of ``queue``; a query's own are no negatives.
        temperature: Above 0.

    Returns:
        0-d: the mean over the B queries of -log(e^positive / (e^positive + sum e^negatives)).
    """
    positive = (query * key).sum(dim=1) / temperature
    same_patient = gather(patients).unsqueeze(1) == queue_patients
    logits = (gather(query) @ queue.T / temperature).masked_fill(same_patient, -torch.inf)
    share = logsumexp(logits, dim=1)
    shares = gather(share.unsqueeze(0))
    negative = own_rows(logsumexp(shares, dim=0))
    return (logaddexp(positive, negative) - positive).mean()


class MoCoV2(Method):
    """MoCo-v2 with a two-layer head (MoCo-v2, section 3) and BatchNorm in groups for the keys.

    Queries and keys must not be normalised over the same batch: a query could recognise its key by
    the batch's statistics. The authors shuffle the keys between GPUs (MoCo, section 3.3). Here, on
    each GPU, keys are permuted and normalised in small groups, and queries over the whole batch.
    """

    queue: Tensor
    queue_patients: Tensor
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
        self.register_buffer("queue_patients", torch.full((len(keys),), NOBODY))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        # Batches are in random order, so one permutation is enough for all.
        order = torch.from_numpy(generator(seed, "shuffle").permutation(batch))
        self.register_buffer("shuffle", order, persistent=False)

    def prepare(self, progress: float) -> None:  # noqa: ARG002 - the momentum is constant
        """Move the key encoder (MoCo, equation 2), before keys are encoded."""
        follow(self.key_encoder, self.encoder, self.settings.ema)

    def forward(self, views: list[Tensor], patients: Tensor) -> Outcome:
        """See :class:`~pretrain.methods.base.Method`; the first view is the query's."""
        query = normalize(self.encoder(views[0]))
        key = self.encode_keys(views[1])
        # A copy: the queue changes before the backward pass, which needs the old values.
        queue = self.queue.clone()
        loss = info_nce(query, key, queue, patients, self.queue_patients, self.settings.temperature)
        self._enqueue(key, patients)
        with torch.no_grad():
            signs = {
                "embedding_std": embedding_std(query),
                "positive_similarity": (query * key).sum(dim=1).mean(),
                "queue_similarity": query.mean(dim=0) @ queue.mean(dim=0),
            }
        return Outcome(loss, signs)

    @torch.no_grad()
    def encode_keys(self, views: Tensor) -> Tensor:
        """Encode views, B x 3 x H x W, to keys: float32, B x D, normalised."""
        keys = normalize(self.key_encoder(views[self.shuffle]))
        return torch.empty_like(keys).index_copy_(0, self.shuffle, keys)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor, patients: Tensor) -> None:
        """Replace the oldest keys (MoCo, section 3.2)."""
        places = torch.arange(len(keys), device=keys.device) + self.position
        places = places % len(self.queue)
        self.queue.index_copy_(0, places, keys)
        self.queue_patients.index_copy_(0, places, patients)
        self.position.add_(len(keys)).remainder_(len(self.queue))
