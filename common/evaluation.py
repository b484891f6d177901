"""Scoring a model on labelled radiographs, at a hospital and at the server alike."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from common.findings import FINDINGS
from common.images import centre_crops, to_device
from common.metrics import Auc, AucByFinding, auc_by_finding, mean_auc
from common.model import to_input
from common.shard import Shard

EVALUATION_BATCH = 64

LARGEST_LOSS = 1e9
"""A model with a larger one has diverged, as has one whose loss is not finite."""

MOST_IMAGES = 2**24
"""Of one hospital. Times a float32 of ordinary size it stays far below what the server can sum."""


class Scores(BaseModel):
    """How a model did on a set of images; travels in replies and stands in ``rounds.jsonl``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    images: int = Field(ge=0, le=MOST_IMAGES)
    loss: float | None = Field(
        ge=0, le=LARGEST_LOSS, description="mean binary cross entropy; null if undefined"
    )
    auc: Auc | None = Field(description="mean over the defined findings")
    auc_by_finding: AucByFinding = Field(description="of each of the fourteen, in their order")

    @field_validator("auc_by_finding")
    @classmethod
    def _all_findings(cls, by_finding: AucByFinding) -> AucByFinding:
        if by_finding.keys() != set(FINDINGS):
            raise ValueError("must name the fourteen findings and nothing else")
        return {finding: by_finding[finding] for finding in FINDINGS}


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross entropy over images and findings.

    Args:
        logits: float, N x 14.
        labels: uint8 or float, N x 14, 0 or 1.
    """
    return binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def evaluate(
    model: nn.Module,
    shard: Shard,
    indices: npt.NDArray[np.intp],
    device: torch.device,
    before_batch: Callable[[], None] = lambda: None,
) -> Scores:
    """Score the model on the central crops of some images of a labelled shard.

    The model is put into evaluation mode first: in training mode DenseNet's BatchNorm would
    normalise by the batch, and its running statistics would change. A model that has diverged
    (see :data:`LARGEST_LOSS`) has neither loss nor AUC.

    Whatever ``before_batch`` raises ends the scoring.
    """
    model.eval()
    labels = shard.labelled()[indices]
    logits = torch.empty(len(indices), labels.shape[1], device=device)
    undefined = Scores(
        images=len(indices), loss=None, auc=None, auc_by_finding=dict.fromkeys(FINDINGS)
    )
    if not len(indices):
        return undefined
    with torch.inference_mode():
        for start in range(0, len(indices), EVALUATION_BATCH):
            before_batch()
            chosen = indices[start : start + EVALUATION_BATCH]
            images = to_device(centre_crops(shard.images[chosen]), device)
            logits[start : start + len(chosen)] = model(to_input(images))
        loss = float(loss_of(logits, to_device(labels, device)))
    if not loss <= LARGEST_LOSS:
        return undefined
    by_finding = auc_by_finding(labels, logits.float().cpu().numpy())
    return undefined.model_copy(
        update={"loss": loss, "auc": mean_auc(by_finding), "auc_by_finding": by_finding}
    )
