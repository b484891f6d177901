import numpy as np
import pytest
import torch

from client.counted import CountedAuc, counted
from common.evaluation import scores_of
from common.findings import FINDINGS, UNKNOWN, count_by_finding


@pytest.mark.parametrize(
    ("positives", "negatives", "few", "words"),
    [
        (4, 56, True, "1.000 (4 of 60 films)"),
        (56, 4, True, "1.000 (4 of 60 films without it)"),
        (5, 55, False, "1.000 (5 of 60 films)"),
    ],
)
def test_an_auc_of_few_films_has_its_counts_beside_it(
    positives: int, negatives: int, few: bool, words: str
) -> None:
    auc = CountedAuc(auc=1, positives=positives, negatives=negatives)
    assert (auc.rests_on_few, auc.in_words()) == (few, words)


def test_scores_name_the_findings_that_rest_on_few_films_alone() -> None:
    labels = np.zeros((60, len(FINDINGS)), np.uint8)
    labels[:4, 0] = labels[:30, 1] = 1
    labels[40:, 0] = UNKNOWN
    logits = torch.from_numpy(labels).float()
    scores = counted(
        scores_of(labels, logits), count_by_finding(labels == 1), count_by_finding(labels == 0)
    )
    assert set(scores.findings) == {FINDINGS[0], FINDINGS[1]}, "the others have no AUC"
    few = f"{FINDINGS[0]} 1.000 (4 of 40 films)"
    assert scores.in_words() == f"validation AUC 1.000 over 60 films; on few films rest {few}"
