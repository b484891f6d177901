"""Scores features of a labelled shard, by k-NN or logistic regression."""

from collections.abc import Sequence
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
Rows = npt.NDArray[np.intp]

NEIGHBOURS = 20
FOLDS = 5

PENALTIES = tuple(10 ** (half / 2) for half in range(2, 9))
"""Candidate weights of the squared norm, on features of unit variance."""


def knn_auc(features: Features, shard: Shard) -> float | None:
    """Return the mean AUC of a k-NN classifier, cross-validated by patient.

    The score of an image is the share of its nearest neighbours (by cosine, among other patients)
    with a finding. For each finding, only images count in which it is known, and only pairs of
    images of the same fold.

    Args:
        features: float32, N x F: features of the shard's images.
        shard: Labelled shard with N images.

    Returns:
        The mean over the findings, or None if no finding has both values.

    Raises:
        BadInput: The shard has no labels.
    """
    labels, patients = shard.labelled(), _patients(shard)
    aucs: AucByFinding = dict.fromkeys(FINDINGS)
    # Findings that are known in the same images share their neighbours: most often all fourteen.
    masks, group_of = np.unique(labels != UNKNOWN, axis=1, return_inverse=True)
    for group, known in enumerate(masks.T):
        rows, columns = np.flatnonzero(known), np.flatnonzero(group_of == group)
        if cuts := _folds(patients[rows]):
            neighbours = min(NEIGHBOURS, *(len(training) for training, _ in cuts))
            model = KNeighborsRegressor(neighbours, metric="cosine")
            scored = np.full_like(labels[rows], UNKNOWN)
            scored[:, columns] = labels[np.ix_(rows, columns)]
            shown = labels[rows].astype(np.float32)
            scores = cross_val_predict(model, features[rows], shown, cv=cuts)
            found = auc_within_folds(scored, scores, [rest for _, rest in cuts])
            aucs |= {FINDINGS[column]: found[FINDINGS[column]] for column in columns}
    return mean_auc(aucs)


def auc_within_folds(labels: Bytes, scores: Features, folds: Sequence[Rows]) -> AucByFinding:
    """Return the AUC of each finding over all pairs of images of the same fold.

    Each fold's scores are another model's. In a fold with many positives the model has seen few, so
    that its scores are lower: over all pairs, features that tell nothing would score below 0.5.

    Args:
        labels: uint8, N x 14, 0, 1 or UNKNOWN.
        scores: float32, N x 14.
        folds: Indices of each fold's images.
    """
    pairs, won = np.zeros(len(FINDINGS)), np.zeros(len(FINDINGS))
    for rows in folds:
        for column, auc in enumerate(auc_by_finding(labels[rows], scores[rows]).values()):
            shown = labels[rows, column]
            count = int((shown == 1).sum()) * int((shown == 0).sum())
            pairs[column] += count
            won[column] += count * (auc or 0.0)
    return {
        finding: float(won[column] / pairs[column]) if pairs[column] else None
        for column, finding in enumerate(FINDINGS)
    }


class LinearEvaluation(NamedTuple):
    """Result of logistic regressions on frozen features.

    Attributes:
        scores: float32, M x 14: scores of the test images, higher for more likely.
        auc_by_finding: AUC of ``scores``; None for a finding without both values in both sets.
        penalty: Weight of the squared norm, the same for all findings.
        held_out: float32, N x 14: scores of the training images by regressions on other patients,
            with penalties chosen on other patients too; None for a single patient.
        inside_auc: Mean AUC of ``held_out`` over pairs of images that one regression has scored;
            None if undefined.
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
    held_out, scored = np.zeros(own.shape, np.float32), own.copy()
    cuts = _folds(patients)
    for fit, rest in cuts:
        penalty = _best_penalty(train[fit], own[fit], patients[fit])
        held_out[rest] = _regression(train[fit], own[fit], train[rest], penalty)
        scored[np.ix_(rest, ~_has_both(own[fit]))] = UNKNOWN
    penalty = _best_penalty(train, own, patients)
    scores = _regression(train, own, test, penalty)
    by_finding = auc_by_finding(labels, scores)
    by_finding |= {FINDINGS[column]: None for column in np.flatnonzero(~_has_both(own))}
    if not cuts:
        return LinearEvaluation(scores, by_finding, penalty, None, None)
    inside = mean_auc(auc_within_folds(scored, held_out, [rest for _, rest in cuts]))
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


def _has_both(labels: Bytes) -> npt.NDArray[np.bool_]:
    """Return for each finding whether some image has it and some has not."""
    return np.asarray((labels == 0).any(axis=0) & (labels == 1).any(axis=0))


def _patients(shard: Shard) -> Names:
    return np.array([entry.patient for entry in shard.entries])


def _folds(patients: Names) -> list[tuple[Rows, Rows]]:
    """Return the training and held-out indices of folds by patient; no folds for one patient."""
    folds = min(FOLDS, len(np.unique(patients)))
    return list(GroupKFold(folds).split(patients, groups=patients)) if folds > 1 else []
