"""Scores a model on labelled radiographs, at hospitals and at the server."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from common.findings import FINDINGS
from common.images import centre_crops, to_device
from common.metrics import auc_by_finding
from common.model import to_input
from common.scores import LARGEST_LOSS, Scores, mean_auc
from common.shard import Shard

EVALUATION_BATCH = 64


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross entropy over images and findings.

    Args:
        logits: float, N x 14.
        labels: uint8 or float, N x 14, 0 or 1.
    """
    return binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def predict(
    model: nn.Module,
    shard: Shard,
    indices: npt.NDArray[np.intp],
    device: torch.device,
    before_batch: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return the model's logits for the central crops of some images: float, N x 14.

    The model is put into evaluation mode first: in training mode DenseNet's BatchNorm would
    normalise by the batch, and its running statistics would change.
    """
    model.eval()
    logits = torch.empty(len(indices), len(FINDINGS), device=device)
    with torch.inference_mode():
        for start in range(0, len(indices), EVALUATION_BATCH):
            before_batch()
            chosen = indices[start : start + EVALUATION_BATCH]
            images = to_device(centre_crops(shard.images[chosen]), device)
            logits[start : start + len(chosen)] = model(to_input(images))
    return logits


def evaluate(
    model: nn.Module,
    shard: Shard,
    indices: npt.NDArray[np.intp],
    device: torch.device,
    before_batch: Callable[[], None] = lambda: None,
) -> Scores:
    """Score the model on the central crops of some images of a labelled shard.

    An exception of ``before_batch`` ends the scoring.
    """
    return scores_of(
        shard.labelled()[indices], predict(model, shard, indices, device, before_batch)
    )


def scores_of(labels: npt.NDArray[np.uint8], logits: Tensor) -> Scores:
    """Return the scores of a model's logits.

    A model that has diverged (:data:`LARGEST_LOSS`) gets neither loss nor AUC.

    Args:
        labels: uint8, N x 14, 0 or 1.
        logits: float, N x 14, as :func:`predict` returns them.
    """
    undefined = Scores(
        images=len(labels), loss=None, auc=None, auc_by_finding=dict.fromkeys(FINDINGS)
    )
    if not len(labels):
        return undefined
    with torch.inference_mode():
        loss = float(loss_of(logits, to_device(labels, logits.device)))
    if not loss <= LARGEST_LOSS:
        return undefined
    by_finding = auc_by_finding(labels, logits.float().cpu().numpy())
    return undefined.model_copy(
        update={"loss": loss, "auc": mean_auc(by_finding), "auc_by_finding": by_finding}
    )
