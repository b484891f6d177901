"""This hospital's own AUCs with the number of films that they rest on; they stay here."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from common.findings import FINDINGS
from common.readings import FEW
from common.scores import Auc, Scores, rounded


class CountedAuc(BaseModel):
    """An AUC and what it rests on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    auc: Auc
    positives: int = Field(description="films with the finding")
    negatives: int = Field(description="films without it")

    @property
    def rests_on_few(self) -> bool:
        """Whether an AUC of so few films says next to nothing."""
        return min(self.positives, self.negatives) < FEW

    def in_words(self) -> str:
        """Return the AUC with its counts, such as ``1.000 (4 of 60 films)``."""
        return with_counts(self.auc, self.positives, self.negatives)


class CountedScores(BaseModel):
    """A hospital's own scores of a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    films: int
    auc: Auc | None = Field(description="mean over the defined findings")
    findings: dict[str, CountedAuc] = Field(description="those with a defined AUC")

    def in_words(self) -> str:
        """Return the mean AUC, and each AUC that rests on few films with its counts."""
        few = [
            f"{finding} {counted.in_words()}"
            for finding, counted in self.findings.items()
            if counted.rests_on_few
        ]
        resting = f"; on few films rest {', '.join(few)}" if few else ""
        return f"validation AUC {rounded(self.auc)} over {self.films} films{resting}"


def with_counts(auc: float, positives: int, negatives: int) -> str:
    """Return an AUC with the smaller of the two groups that it compares."""
    films = positives + negatives
    if positives <= negatives:
        return f"{rounded(auc)} ({positives} of {films} films)"
    return f"{rounded(auc)} ({negatives} of {films} films without it)"


def counted(
    scores: Scores, positives: Mapping[str, int], negatives: Mapping[str, int]
) -> CountedScores:
    """Return scores with their counts.

    Args:
        scores: Of a model.
        positives: How many of the films that it was scored on have each finding.
        negatives: How many of these are known not to have it.
    """
    return CountedScores(
        films=scores.images,
        auc=scores.auc,
        findings={
            finding: CountedAuc(auc=auc, positives=positives[finding], negatives=negatives[finding])
            for finding in FINDINGS
            if (auc := scores.auc_by_finding[finding]) is not None
        },
    )
