"""What the report is made from: numbers that are ready to print, and why others are missing."""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, model_validator

from common.findings import FINDINGS
from common.options import Mode, Wire
from experiments.paper.cells import Entry, FirstModel, Method, Split
from experiments.paper.verdict import Verdict

T = TypeVar("T")

Some = Annotated[list[T], Field(min_length=1)]
"""A list with at least one item: what is empty is :class:`Missing` and says why."""

TITLES: dict[FirstModel, str] = {
    "random": "Random",
    "imagenet": "ImageNet",
    "rotation": "Rotation",
    "simclr": "SimCLR",
    "byol": "BYOL",
    "mocov2": "MoCo-v2",
    "statistics": "Random, BatchNorm of films",
    "scrambled": "MoCo-v2, scrambled films",
}
"""How people read the names of the first models."""

METHOD_TITLES: dict[Method, str] = {
    "fedavg": "FedAvg",
    "fedprox": "FedProx",
    "fednova": "FedNova",
    "scaffold": "SCAFFOLD",
    "feddyn": "FedDyn",
    "fedavgm": "FedAvgM",
    "fedadagrad": "FedAdagrad",
    "fedadam": "FedAdam",
    "fedyogi": "FedYogi",
    "median": "Median",
}
"""The same of the methods."""


class Missing(Entry):
    """Stands where a result would: it was not run."""

    reason: str


class Number(Entry):
    """A number that need not have an interval."""

    value: float


class Interval(Number):
    """A number with its 95 % interval over test patients and seeds."""

    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not be above high ({self.high})")
        return self


ByFinding = dict[str, Interval | Number | None]
"""A number for each of the fourteen findings, or None where it is undefined.

It has no interval if it is undefined in any draw: the other draws alone say too little of chance.
"""


class FindingCount(Entry):
    """A finding among the test films."""

    name: str
    positives: int = Field(ge=0, description="test films with it")
    patients: int = Field(ge=0, description="that these films are of")
    primary: bool = Field(description="whether it counts for the primary mean")


class Row(Entry):
    """A first model's row of table 1 or 2: means over seeds."""

    first_model: FirstModel
    auc_by_finding: ByFinding
    mean: Interval | None = Field(description="AUC, over the findings of the endpoint")
    lr: float = Field(description="chosen by the hospitals' validation")
    edge: Literal["lowest", "highest"] | None = Field(
        None, description="whether that is the lowest or the highest of those tried"
    )
    failed_rates: list[float] = Field([], description="at which the trial failed")
    seeds: int
    over_random: Interval | None = Field(description="of the mean, paired; None for random")
    over_random_by_finding: ByFinding = Field({}, description="the same of each finding")

    @model_validator(mode="after")
    def _all_findings(self) -> Self:
        if self.auc_by_finding.keys() != set(FINDINGS):
            raise ValueError("auc_by_finding must name exactly the fourteen findings")
        return self


class ResultTable(Entry):
    """Table 1, or table 2 in one of its splits."""

    split: Split
    mode: Mode
    rows: Some[Row]
    lead: Interval | None = Field(None, description="best mean minus next best, paired")
    not_run: dict[FirstModel, str] = Field({}, description="rows that are missing, and why")


class FractionCell(Entry):
    """A first model, trained with a share of the labels."""

    fraction: float = Field(gt=0, le=1)
    mean: Interval | None = Field(description="AUC, over the findings of the endpoint")
    drop: Interval | None = Field(description="AUC with all labels minus this, paired; None at 1")
    over_random: Interval | None = Field(
        description="of the mean, with as many labels, paired; None for random"
    )
    lr: float
    seeds: int


class FractionRow(Entry):
    """A first model's row of table 3."""

    first_model: FirstModel
    cells: Some[FractionCell]


class FractionTable(Entry):
    """Table 3."""

    rows: Some[FractionRow]
    not_run: dict[FirstModel, str] = Field({})


class CurvePoint(Entry):
    """A trial after so many rounds; round 0 is the first model."""

    round: int = Field(ge=0)
    validation_auc: float | None = Field(description="mean over hospitals")
    test_auc: float | None = Field(description="mean over the findings of the endpoint")
    bytes: int = Field(ge=0, description="sent and received by all hospitals up to here")


class Curve(Entry):
    """A trial of figure 6, round by round."""

    first_model: FirstModel
    seed: int
    points: Some[CurvePoint]


class MethodResult(Entry):
    """A method from a first model on a split: means over seeds."""

    mean: Interval | None = Field(description="AUC, over the findings of the endpoint")
    over_fedavg: Interval | None = Field(description="of the mean, paired; None for FedAvg")
    p: float | None = Field(description="two-sided, after Holm over all planned of the main split")
    seeds: int


class MethodRow(Entry):
    """A method's row of the strategies' table."""

    method: Method
    setting: float | None = Field(description="chosen by the hospitals' validation")
    results: dict[Split, MethodResult | Missing] = Field(description="the main split first")
    curves: list[Curve] = Field([], description="on the main split, by seed")


class StrategyTable(Entry):
    """The federated methods, all from one first model."""

    first_model: FirstModel
    rows: Some[MethodRow]


class Traffic(Entry):
    """What all hospitals send and receive: mean over seeds."""

    bytes: int
    share: float | None = Field(description="of that in fp32; None where that was not run")


class WireResult(Entry):
    """A wire from a first model: means over seeds."""

    mean: Interval | None = Field(description="AUC, over the findings of the endpoint")
    over_fp32: Interval | None = Field(description="of the mean, paired; None for fp32")
    seeds: int
    later: Traffic = Field(description="of a round after the first, if there is one")
    total: Traffic = Field(description="of all rounds")


class WireTable(Entry):
    """The wires, all from one first model."""

    first_model: FirstModel
    results: dict[Wire, WireResult | Missing]


class WireReport(Entry):
    """How the model travels: tables, and what they say of each claim."""

    verdicts: list[Verdict]
    tables: Some[WireTable]


class BoundResult(Entry):
    """Training without a federation, or in it: means over seeds."""

    mean: Interval | None = Field(description="AUC, over the findings of the endpoint")
    over_federation: Interval | None = Field(
        description="of the mean, paired over the seeds of both; None for the federation"
    )
    seeds: int


class Bound(Entry):
    """Training in a federation and without one, from a first model; None: not run."""

    first_model: FirstModel
    federation: BoundResult | None = Field(description="under table 2")
    union: BoundResult | None = Field(description="on all hospitals' films")
    alone: dict[int, BoundResult] = Field(description="by hospital that trained alone")


class Stratum(Entry):
    """A first model on the test films of one view position, under table 2."""

    first_model: FirstModel
    view: str = Field(description="PA or AP")
    films: int
    findings: int = Field(description="number of findings in the mean")
    mean: Interval | None
    over_random: Interval | None


class HospitalCounts(Entry):
    """A hospital's training films in figure 4."""

    hospital: str
    films: int
    patients: int
    positives: dict[str, int] = Field(description="films with each finding")
    without: int = Field(description="films without any finding")


class SplitCounts(Entry):
    """How the films were shared out."""

    split: Split
    hospitals: Some[HospitalCounts]


class Epoch(Entry):
    """A pretraining after so many epochs."""

    epoch: int
    loss: float
    spread: float | None = Field(description="of embeddings: near 1 is healthy, 0 is collapse")
    rank: float | None = Field(description="effective rank of embeddings")


class Pretraining(Entry):
    """A pretraining's curve."""

    method: FirstModel
    epochs: Some[Epoch]


class NotRun(Entry):
    """A trial or anything else that was left out or failed, besides tables and their rows."""

    what: str
    reason: str


class ReportInput(Entry):
    """All that the report shows."""

    scale: str
    reasons: list[str] = Field(description="why the scale's settings are what they are")
    data: str = Field(description="in a sentence, which films this is measured on")
    limits: list[str] = Field([], description="what these films and settings cannot tell")
    endpoint: str = Field(description="in a sentence, the primary endpoint as fixed beforehand")
    commits: Some[str] = Field(description="of the code that ran the trials")
    least_positives: int = Field(
        20, description="findings with fewer positive test films are not in the primary mean"
    )
    findings: list[FindingCount]
    verdicts: list[Verdict]
    table1: ResultTable | Missing
    table2_spread: ResultTable | Missing
    table2_last: ResultTable | Missing
    table3: FractionTable | Missing
    curves: Some[Curve] | Missing = Field(description="figure 6")
    strategies: Some[StrategyTable] | Missing
    wires: WireReport | Missing
    bounds: Some[Bound] | Missing
    strata: Some[Stratum] | Missing
    splits: Some[SplitCounts] | Missing = Field(description="figure 4")
    pretraining: Some[Pretraining] | Missing
    not_run: list[NotRun] = Field([])
    left_out: list[NotRun] = Field([], description="hospitals without which a trial went on")
    environment: list[str]

    @model_validator(mode="after")
    def _all_findings(self) -> Self:
        if tuple(finding.name for finding in self.findings) != FINDINGS:
            raise ValueError("findings must be the fourteen, in their order")
        return self
