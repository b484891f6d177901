"""A model's scores on a set of images; imports neither torch nor scikit-learn."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from common.findings import FINDINGS

LARGEST_LOSS = 1e9
"""A model with a larger loss, or one that is not finite, has diverged."""

MOST_IMAGES = 2**24
"""Most images of one hospital; bounds examples x weight."""

Auc = Annotated[float, Field(ge=0, le=1)]

AucByFinding = dict[str, Auc | None]
"""The AUC of each finding, or None if it is undefined."""


def _all_findings(by_finding: AucByFinding) -> AucByFinding:
    if by_finding.keys() != set(FINDINGS):
        raise ValueError("must name exactly the fourteen findings")
    return {finding: by_finding[finding] for finding in FINDINGS}


AucOfAll = Annotated[AucByFinding, AfterValidator(_all_findings)]
"""The same, with all fourteen findings, in their order."""


class Scores(BaseModel):
    """A model's scores on a set of images, in replies and in ``rounds.jsonl``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    images: int = Field(ge=0, le=MOST_IMAGES)
    loss: float | None = Field(
        ge=0, le=LARGEST_LOSS, description="mean binary cross entropy; null if undefined"
    )
    auc: Auc | None = Field(description="mean over the defined findings")
    auc_by_finding: AucOfAll = Field(description="AUC of each finding, in their order")


def rounded(value: float | None, digits: int = 3) -> str:
    """Return a number for people, or a dash for what is undefined."""
    return "-" if value is None else f"{value:.{digits}f}"


def mean_auc(by_finding: AucByFinding) -> float | None:
    """Return the mean of the defined AUCs, or None if there are none."""
    defined = [auc for auc in by_finding.values() if auc is not None]
    return sum(defined) / len(defined) if defined else None


def weighted_auc(hospitals: list[tuple[int, AucByFinding]]) -> AucByFinding:
    """Return each finding's mean AUC over the hospitals where it is defined.

    Args:
        hospitals: Number of validation images, used as weight, and AUCs of each hospital.
    """
    means: AucByFinding = {}
    for finding in FINDINGS:
        defined = [(n, auc) for n, by in hospitals if (auc := by.get(finding)) is not None]
        total = sum(n for n, _ in defined)
        means[finding] = sum(n * auc for n, auc in defined) / total if total else None
    return means
