"""How updates are hidden in a sum, as an instruction tells it; needs no torch."""

from pydantic import BaseModel, ConfigDict, Field

from common.scores import MOST_IMAGES

FEWEST = 3
"""Hospitals in a sum, at least: of two, each would know the other's update."""

SPARSE_THRESHOLD = 0.6
"""Where hospitals mask with some of the others alone, the threshold is above this: or neighbours of
neighbours could be told different lists of who is in a sum."""

MOST_FILMS = 2**30
"""Largest ``total``, so that the films of all hospitals fit a word."""


class SecureSettings(BaseModel):
    """Settings of an attempt at a round whose updates are summed under masks."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    clip: float = Field(
        gt=0, le=2.0**20, description="longest change of a hospital's parameters, Euclidean"
    )
    films: int = Field(ge=1, le=MOST_IMAGES, description="most films of one hospital")
    total: int = Field(
        ge=1, le=MOST_FILMS, description="about the films of all hospitals together; see fixed.py"
    )
    threshold: float = Field(
        ge=0.5,
        lt=1,
        description="more than this share of those who hold shares of a secret can recover it",
    )
    rotation: int | None = Field(
        None,
        ge=0,
        description="parameters travel in half a word each, turned by this seed; None: in a word",
    )
