"""A claim of the paper, and what the trials say of it."""

from typing import Literal

from pydantic import Field

from experiments.paper.cells import Entry

Decision = Literal["holds", "does not hold", "undecided", "not run"]


class Verdict(Entry):
    """What the trials say of one claim."""

    claim: str = Field(description="in words, as the paper makes it")
    table: str = Field(description="where it is read off")
    decision: Decision
    part: bool = Field(False, description="one of several comparisons of the claim before it")
    difference: float | None = Field(
        description="of the mean AUC, of its drop (table3) or of rounds (figure6), paired; above 0 "
        "favours it"
    )
    low: float | None = Field(
        description="lower end of its 95 % interval over patients and seeds, of rounds over seeds "
        "alone; null if unbounded"
    )
    high: float | None = Field(description="upper end")
    p: float | None = Field(
        description="two-sided, after Holm over all planned comparisons of the table"
    )
    ratio: float | None = Field(description="of the two mean AUCs, where the claim is one")
    seeds: int
    seeds_fixed: bool = Field(False, description="the interval is over patients alone")
    films: int
    patients: int
    note: str = Field("", description="what a reader must know, such as why it was not run")
