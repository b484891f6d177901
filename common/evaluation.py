"""Scores a model on labelled radiographs, at hospitals and at the server."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from common.findings import FINDINGS, UNKNOWN
from common.images import centre_crops, centre_crops_of, crop_size, to_device
from common.metrics import auc_by_finding
from common.model import to_input
from common.scores import LARGEST_LOSS, Scores, mean_auc
from common.shard import Bytes, Shard

EVALUATION_BATCH = 64
"""Films that are scored at a time, where nothing else is known to be faster."""

FULL_CROP = 224
"""Pixels of the paper's crops: two of the batches above take 1.2 GB of a GPU's memory."""


def evaluation_batch(size: int, device: torch.device) -> int:
    """Return how many films to score at a time; benchmarks/client_speed.md has the best on a CPU.

    Args:
        size: S, pixels along each side of a film.
        device: Where to compute.
    """
    if device.type == "cuda":
        share = min(1.0, (FULL_CROP / crop_size(size)) ** 2)  # memory grows with the area
        return max(1, int(2 * EVALUATION_BATCH * share))
    return EVALUATION_BATCH if crop_size(size) < 168 else EVALUATION_BATCH // 4


def loss_of(logits: Tensor, labels: Tensor, positives: Tensor | None = None) -> Tensor:
    """Return the mean binary cross entropy over the known labels; 0 if there are none.

    Unknown labels have no gradient (U-Ignore in Irvin et al., "CheXpert", AAAI 2019, which sums
    where this takes the mean).

    Args:
        logits: float, N x 14.
        labels: uint8, N x 14, 0, 1 or UNKNOWN.
        positives: float, 14: by how much a positive label counts; None: 1.
    """
    known = labels != UNKNOWN
    # Weights of a plain mean: exactly 1 where all is known, so that nothing changes in any bit.
    weights = known * (known.numel() / known.sum().clamp(min=1))
    return binary_cross_entropy_with_logits(
        logits, (labels == 1).to(logits.dtype), weights.to(logits.dtype), pos_weight=positives
    )


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
    batch = evaluation_batch(shard.manifest.size, device)
    with torch.inference_mode():
        for start in range(0, len(indices), batch):
            before_batch()
            crops = centre_crops_of(shard, indices[start : start + batch], device)
            logits[start : start + len(crops)] = model(to_input(crops))
    return logits


def logits_of(model: nn.Module, images: Bytes, device: torch.device) -> Tensor:
    """Return a model's logits for the central crops of a batch: float, N x 14.

    Args:
        model: In evaluation mode, on the device.
        images: uint8, N x S x S.
        device: Where to compute.
    """
    logits: Tensor = model(to_input(to_device(centre_crops(images), device)))
    return logits


def evaluate(
    model: nn.Module,
    shard: Shard,
    indices: npt.NDArray[np.intp],
    device: torch.device,
) -> Scores:
    """Score the model on the central crops of some images of a labelled shard.

    Images without a known label are left out, also of the number of images.
    """
    known = indices[(shard.labelled()[indices] != UNKNOWN).any(axis=1)]
    return scores_of(shard.labelled()[known], predict(model, shard, known, device))


def scores_of(labels: npt.NDArray[np.uint8], logits: Tensor) -> Scores:
    """Return the scores of a model's logits.

    A model that has diverged (:data:`LARGEST_LOSS`) gets neither loss nor AUC.

    Args:
        labels: uint8, N x 14, 0, 1 or UNKNOWN.
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
