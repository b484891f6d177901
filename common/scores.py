"""How good a model is on a set of images: numbers alone, without torch or scikit-learn."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from common.findings import FINDINGS

LARGEST_LOSS = 1e9
"""A model with a larger loss has diverged, as has one whose loss is not finite."""

MOST_IMAGES = 2**24
"""Images of one hospital, at most. Bounds examples x weight."""

Auc = Annotated[float, Field(ge=0, le=1)]

AucByFinding = dict[str, Auc | None]
"""The AUC of each finding; None where it is undefined."""


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


def mean_auc(by_finding: AucByFinding) -> float | None:
    """Return the mean over the findings whose AUC is defined; None if there is none."""
    defined = [auc for auc in by_finding.values() if auc is not None]
    return sum(defined) / len(defined) if defined else None


def weighted_auc(hospitals: list[tuple[int, AucByFinding]]) -> AucByFinding:
    """Return each finding's mean AUC over the hospitals where it is defined.

    Args:
        hospitals: For each hospital its number of validation images, which is its weight, and
            its own AUCs.
    """
    means: AucByFinding = {}
    for finding in FINDINGS:
        defined = [(n, auc) for n, by in hospitals if (auc := by.get(finding)) is not None]
        total = sum(n for n, _ in defined)
        means[finding] = sum(n * auc for n, auc in defined) / total if total else None
    return means
