"""What decides a trial, and the lines that it leaves."""

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from common.options import Mode, Wire
from common.scores import AucByFinding
from server.rounds.checks import DIVERGED

FirstModel = Literal[
    "random", "imagenet", "rotation", "simclr", "byol", "mocov2", "statistics", "scrambled"
]
"""``statistics``: random weights with BatchNorm's statistics of the public films. ``scrambled``:
MoCo-v2 pretrained on public films whose phases are scrambled, a negative control."""

Split = Literal["iid", "spread", "last", "dirichlet"]
"""How films are shared out: in equal parts, as the paper's Non-IID setting in either reading, or by
each finding's own draw from Dir(0.1)."""

Method = Literal[
    "fedavg",
    "fedprox",
    "fednova",
    "scaffold",
    "feddyn",
    "fedavgm",
    "fedadagrad",
    "fedadam",
    "fedyogi",
    "median",
]
"""How the hospitals train together; see :mod:`experiments.paper.methods`."""

ScaleName = Literal["tiny", "smoke", "small", "full"]

Table = Literal["table1", "table2", "table3", "bounds", "strategies", "wires"]
"""``figure6`` is read off the rounds of ``table2``."""


class Entry(BaseModel):
    """Base of what stands in a line of the results."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Cell(Entry):
    """All that decides a trial's numbers, besides the version of the code.

    A cell belongs to every table that reads it: the same federation is never run twice.
    """

    scale: ScaleName = Field(description="data, sizes and pretraining follow from it")
    first_model: FirstModel
    split: Split
    mode: Mode
    seed: int = Field(
        ge=0, description="of the head, the order of films and who validates; of random weights"
    )
    lr: float = Field(gt=0)
    rounds: int = Field(ge=1)
    label_fraction: float = Field(1.0, gt=0, le=1)
    hospitals: Literal["all", "union"] | int = Field(
        "all", description="who trains: all, the union of their films as one, or one alone"
    )
    method: Method = "fedavg"
    setting: float | None = Field(None, description="of the method, if it has one that is tuned")
    wire: Wire = Field("fp32", description="how the model travels")

    @property
    def name(self) -> str:
        """What it is, in words, and 12 digits of the hash of all that decides it.

        Trials are known by it: FedAvg's are named as if there were no other method, and those in
        fp32 as if there were no other wire.
        """
        plain = {"method", "setting"} if self.method == "fedavg" else set()
        plain |= {"wire"} if self.wire == "fp32" else set()
        digest = hashlib.sha256(self.model_dump_json(exclude=plain).encode()).hexdigest()[:12]
        who = "" if self.hospitals == "all" else f"-{self.hospitals}"
        how = "" if self.method == "fedavg" else f"-{self.method}"
        how += "" if self.setting is None else f"{self.setting:g}"
        how += "" if self.wire == "fp32" else f"-{self.wire}"
        return (
            f"{self.split}-{self.mode}-{self.first_model}-f{self.label_fraction:g}"
            f"-lr{self.lr:g}-s{self.seed}{who}{how}-{digest}"
        )


class RoundLine(Entry):
    """A round of a trial; round 0 is the first model."""

    round: int
    validation_auc: float | None = Field(description="mean over hospitals, of the model before it")
    test_auc: float | None = Field(description="mean over the findings of the endpoint")
    loss: float | None = Field(description="mean training loss")
    bytes: int = Field(description="sent and received by all hospitals in this round")
    seconds: float


class Environment(Entry):
    """Where and with what a trial ran."""

    commit: str = Field(description="of the code")
    torch: str
    cpu: str
    gpu: str | None
    precision: str
    threads: int


class TrialLine(Entry):
    """What a trial came to: one line of ``trials.jsonl``.

    The final model's score of each test film stands in ``scores/NAME.npy``, float16, films x 14
    logits, in the order of the test shard.
    """

    cell: Cell
    rounds: list[RoundLine]
    validation_auc: float | None = Field(description="hospitals' mean, of the final model")
    test_auc_by_finding: AucByFinding = Field(description="of the final model")
    first_model_sha256: str | None = Field(description="of its checkpoint, if it has one")
    data_sha256: str | None = Field(
        None, description="of the manifests of the split's and the test shards; None: not noted"
    )
    model_sha256: str = Field(description="of the final model, as in the run's rounds.jsonl")
    hospitals_lost: list[str] = Field(description="that were rejected or excluded in any round")
    hospitals_unusual: list[str] = Field(description="of whose pace the server warned")
    seconds: float = Field(description="of its rounds")
    environment: Environment = Field(description="in which it began")
    went_on_in: list[Environment] = Field(
        [], description="others in which it went on after a stop: its rounding may differ there"
    )

    @property
    def environments(self) -> list[Environment]:
        """All in which it ran."""
        return [self.environment, *self.went_on_in]


class FailedLine(Entry):
    """A trial that failed: one line of ``failed.jsonl``."""

    cell: Cell
    reason: str

    @property
    def diverged(self) -> bool:
        """Whether it would fail again: its learning rate or setting is too much.

        In one process no hospital is lost, so that too few good replies are of that too.
        """
        return any(words in self.reason for words in (DIVERGED, "cannot be used: ", "good replies"))
