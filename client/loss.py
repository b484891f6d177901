"""The loss of local training: of a batch, mixed or not, with or without weights of positives."""

import numpy as np
import torch
from torch import Tensor

from client.batches import Batch
from common.evaluation import loss_of
from common.shard import Bytes

MOST_WEIGHT = 50.0
"""A finding that is rarer still would make a few films most of the gradient."""


def positive_weights(labels: Bytes) -> Tensor:
    """Return by how much a positive label of each finding counts: float32, 14, in [1, 50].

    It is negatives / positives among the known labels, and 1 for a finding without positives.
    Rajpurkar et al., "CheXNet", 2017, section 2.1, weigh positives by the share of negatives and
    negatives by that of positives: the same proportion, here with negatives that count 1.

    Args:
        labels: uint8, N x 14, 0, 1 or UNKNOWN.
    """
    positives, negatives = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    weights = np.where(positives > 0, negatives / np.maximum(positives, 1), 1)
    return torch.from_numpy(np.clip(weights, 1, MOST_WEIGHT).astype(np.float32))


def batch_loss(logits: Tensor, batch: Batch, weights: Tensor | None = None) -> Tensor:
    """Return the mean loss over a batch's known labels.

    Films that are mixed have the mixture of their losses, which for a loss that is linear in the
    labels is that of mixed labels (Zhang et al., "mixup", ICLR 2018). The films mixed in are the
    batch's own in another order, so that both means are over as many known labels.

    Args:
        logits: float, B x 14.
        batch: Its labels.
        weights: Of positives, see :func:`positive_weights`; None: 1.
    """
    loss = loss_of(logits, batch.labels, weights)
    if batch.others is None:
        return loss
    return batch.share * loss + (1 - batch.share) * loss_of(logits, batch.others, weights)
