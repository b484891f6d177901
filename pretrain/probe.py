"""Scores features of a labelled shard, by k-NN or logistic regression."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from common.findings import FINDINGS, UNKNOWN
from common.metrics import auc_by_finding
from common.scores import AucByFinding, mean_auc
from common.shard import Bytes, Shard
from pretrain.features import Features

Names = npt.NDArray[np.str_]

NEIGHBOURS = 20
FOLDS = 5

PENALTIES = tuple(10 ** (half / 2) for half in range(2, 9))
"""Candidate weights of the squared norm, on features of unit variance."""


def knn_auc(features: Features, shard: Shard) -> float | None:
    """Return the mean AUC of a k-NN classifier, cross-validated by patient.

    The score of an image is the share of its nearest neighbours (by cosine, among other patients)
    with a finding. For each finding, only images count in which it is known.

    Args:
        features: float32, N x F: features of the shard's images.
        shard: Labelled shard with N images.

    Returns:
        The mean over the findings, or None if no finding has both values.

    Raises:
        BadInput: The shard has no labels.
    """
    labels, patients = shard.labelled(), _patients(shard)
    scores, scored = np.zeros(labels.shape, np.float32), np.full_like(labels, UNKNOWN)
    # Findings that are known in the same images share their neighbours: most often all fourteen.
    masks, group_of = np.unique(labels != UNKNOWN, axis=1, return_inverse=True)
    for group, known in enumerate(masks.T):
        rows, columns = np.flatnonzero(known), np.flatnonzero(group_of == group)
        if cuts := _folds(patients[rows]):
            neighbours = min(NEIGHBOURS, *(len(training) for training, _ in cuts))
            model = KNeighborsRegressor(neighbours, metric="cosine")
            cells = np.ix_(rows, columns)
            scored[cells] = labels[cells]
            shown = labels[cells].astype(np.float32)
            scores[cells] = cross_val_predict(model, features[rows], shown, cv=cuts)
    return mean_auc(auc_by_finding(scored, scores))


class LinearEvaluation(NamedTuple):
    """Result of logistic regressions on frozen features.

    Attributes:
        scores: float32, M x 14: scores of the test images, higher for more likely.
        auc_by_finding: AUC of ``scores``; None for a finding without both values in both sets.
        penalty: Weight of the squared norm, the same for all findings.
        held_out: float32, N x 14: scores of the training images by regressions on other patients,
            with penalties chosen on other patients too; None for a single patient.
        inside_auc: Mean AUC of ``held_out``; None if undefined.
    """

    scores: Features
    auc_by_finding: AucByFinding
    penalty: float
    held_out: Features | None
    inside_auc: float | None


def linear_evaluation(
    train: Features, shard: Shard, test: Features, labels: Bytes
) -> LinearEvaluation:
    """Fit a logistic regression for each finding on frozen features, and score test images.

    Every regression's penalty is the best for a fifth of its own training patients, after a fit
    on the others. The images that a regression is scored on have no say in it.

    Args:
        train: float32, N x F: features of the shard's images.
        shard: Labelled shard with N images, to fit on.
        test: float32, M x F: features of the test images.
        labels: uint8, M x 14, 0, 1 or UNKNOWN: labels of the test images.

    Raises:
        BadInput: The shard has no labels.
    """
    own, patients = shard.labelled(), _patients(shard)
    held_out = np.zeros(own.shape, np.float32)
    cuts = _folds(patients)
    for fit, rest in cuts:
        penalty = _best_penalty(train[fit], own[fit], patients[fit])
        held_out[rest] = _regression(train[fit], own[fit], train[rest], penalty)
    penalty = _best_penalty(train, own, patients)
    scores = _regression(train, own, test, penalty)
    by_finding = auc_by_finding(labels, scores)
    fitted = (own == 0).any(axis=0) & (own == 1).any(axis=0)
    by_finding |= {FINDINGS[column]: None for column in np.flatnonzero(~fitted)}
    if not cuts:
        return LinearEvaluation(scores, by_finding, penalty, None, None)
    inside = mean_auc(auc_by_finding(own, held_out))
    return LinearEvaluation(scores, by_finding, penalty, held_out, inside)


def _best_penalty(features: Features, labels: Bytes, patients: Names) -> float:
    """Return the penalty with the highest mean AUC on a fifth of the patients, fitted on the rest.

    With a single patient, the largest.
    """
    cuts = _folds(patients)
    if not cuts:
        return PENALTIES[-1]
    fit, rest = cuts[0]

    def auc(penalty: float) -> float:
        scores = _regression(features[fit], labels[fit], features[rest], penalty)
        return mean_auc(auc_by_finding(labels[rest], scores)) or 0

    return max(PENALTIES, key=auc)


def _regression(train: Features, labels: Bytes, test: Features, penalty: float) -> Features:
    """Return the decision values of the test images, each fitted to the known labels: M x 14."""
    scores = np.zeros((len(test), labels.shape[1]), np.float32)
    with threadpool_limits(1):  # several threads are slower on matrices this small
        for column, shown in enumerate(labels.T):
            known = shown != UNKNOWN
            if len(np.unique(shown[known])) == 2:
                regression = LogisticRegression(C=1 / penalty, max_iter=500)
                model: Any = make_pipeline(StandardScaler(), regression)
                model.fit(train[known], shown[known])
                scores[:, column] = model.decision_function(test)
    return scores


def _patients(shard: Shard) -> Names:
    return np.array([entry.patient for entry in shard.entries])


def _folds(patients: Names) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Return the training and held-out indices of folds by patient; no folds for one patient."""
    folds = min(FOLDS, len(np.unique(patients)))
    return list(GroupKFold(folds).split(patients, groups=patients)) if folds > 1 else []
