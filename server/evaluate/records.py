"""What an evaluation leaves in ``models.jsonl``: a line for each model that was scored."""

from pathlib import Path

from pydantic import Field, ValidationError

from common.errors import BadInput, first_problem
from common.readings import FindingAuc, Pooled
from common.runtime.files import append_json, drop_torn_line
from common.scores import Scores
from server.run.records import Record

LINES = "models.jsonl"


class HospitalScores(Record):
    """A hospital's scores of a model, as far as its policy allows."""

    scores: Scores
    findings: dict[str, FindingAuc] | None = Field(
        description="with intervals and counts, from its histograms; None: it told none"
    )


class ScoredModel(Record):
    """A model that was scored.

    Its histograms are in ``histograms/round-NNNN.json``, by its number.
    """

    number: int = Field(description="from 1, in the order in which the models were given")
    file: str
    origin: str = Field(description="where its weights come from, in words")
    sha256: str = Field(description="of the weights, packed")
    hospitals: dict[str, HospitalScores]
    rejected: dict[str, str] = Field(description="the reason by the hospital's name")
    withheld: list[str] = Field([], description="hospitals that scored it and tell no scores")
    missing: list[str]
    pooled: Pooled | None = Field(description="of all hospitals' films; None: none told histograms")
    test: Scores | None = Field(description="on the server's test shard")

    @property
    def asked(self) -> set[str]:
        """The hospitals that scored it, or were to."""
        return {*self.hospitals, *self.rejected, *self.withheld, *self.missing}


def write_scored(run: Path, scored: ScoredModel) -> None:
    """Append a model's line.

    Raises:
        OSError: It cannot be written.
    """
    append_json(run / LINES, scored.model_dump(mode="json"))


def read_scored(run: Path) -> list[ScoredModel]:
    """Return the models that were scored, without a line that a killed process left half-written.

    Raises:
        BadInput: A line is damaged.
    """
    path = run / LINES
    drop_torn_line(path)
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    try:
        return [ScoredModel.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise BadInput(
            f"{path}: damaged ({first_problem(error)}); restore it from a backup"
        ) from None
