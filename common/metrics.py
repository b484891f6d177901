"""The area under the ROC curve (AUC) of each finding."""

import numpy as np
import numpy.typing as npt

from common.findings import FINDINGS, UNKNOWN
from common.scores import AucByFinding


def auc_by_finding(labels: npt.NDArray[np.uint8], scores: npt.NDArray[np.float32]) -> AucByFinding:
    """Return the AUC of every finding over the images where it is known; None if undefined.

    The AUC is undefined, neither 0 nor 0.5, for a finding that all of these have or none has.

    Args:
        labels: uint8, N x 14, 0, 1 or UNKNOWN.
        scores: float, N x 14; higher means more likely. Logits or probabilities.
    """
    return {
        finding: _auc(labels[known, i], scores[known, i])
        for i, (finding, known) in enumerate(zip(FINDINGS, (labels != UNKNOWN).T, strict=True))
    }


def _auc(labels: npt.NDArray[np.uint8], scores: npt.NDArray[np.float32]) -> float | None:
    if not 0 < labels.sum() < len(labels):
        return None
    from sklearn.metrics import roc_auc_score  # takes a second: servers do without

    return min(1.0, float(roc_auc_score(labels, scores)))  # may round above 1
