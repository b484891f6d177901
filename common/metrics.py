"""The area under the ROC curve (AUC) of each finding."""

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from common.findings import FINDINGS
from common.scores import AucByFinding


def auc_by_finding(labels: npt.NDArray[np.uint8], scores: npt.NDArray[np.float32]) -> AucByFinding:
    """Return the AUC of every finding, or None if it is undefined.

    The AUC is undefined, neither 0 nor 0.5, for a finding that all images have or none has.

    Args:
        labels: uint8, N x 14, 0 or 1.
        scores: float, N x 14; higher means more likely. Logits or probabilities.
    """
    return {
        finding: min(1.0, float(roc_auc_score(labels[:, i], scores[:, i])))  # may round above 1
        if 0 < labels[:, i].sum() < len(labels)
        else None
        for i, finding in enumerate(FINDINGS)
    }
