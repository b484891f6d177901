"""What a run's folder tells of its models; imports no torch.

Only what is needed here is read; the folder is the server's, which documents all of it.
"""

from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from common.errors import BadInput, first_problem
from common.options import Training
from common.readings import Pooled
from common.scores import AucByFinding, Scores
from common.shard import SMALLEST

CONFIG, ROUNDS = "config.json", "rounds.jsonl"

MODELS = ("final.pt", "best.pt")
"""The files of a run's models, the one to prefer first."""


class Config(Training):
    """What a run was started with."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    run_id: str
    rounds: int
    strategy: str
    image_size: int = Field(ge=SMALLEST)
    secure_aggregation: bool = False


class Part(BaseModel):
    """A hospital's part of a round."""

    examples: int | None = Field(description="None: not told, in secure sums")
    validation_images: int


class Round(BaseModel):
    """A round that is done; its AUC is that of the model before the round."""

    round: int
    auc: float | None
    auc_by_finding: AucByFinding
    test: Scores | None
    hospitals: dict[str, Part]
    rejected: dict[str, str]
    missing: list[str]
    pooled: Pooled | None = Field(None, description="of all validation films; None: not told")


class Validation(BaseModel):
    """The hospitals' mean AUC on their own validation images, and that of all of these together."""

    auc: float | None
    auc_by_finding: AucByFinding
    pooled: Pooled | None = Field(None, description="None: not told")


class AverageScores(BaseModel):
    """How good the moving average of a run's models is."""

    test: Scores | None
    validation: Validation
    pooled: Pooled | None


class Status(BaseModel):
    """How a run ended."""

    validation: Validation | None = Field(None, description="of the model after the last round")
    pooled: Pooled | None = Field(None, description="of the same model; None: not told")
    ema: AverageScores | None = Field(None, description="None: no average, or not told")


class Run(NamedTuple):
    """A run's folder, and what the run was started with."""

    folder: Path
    config: Config


ModelT = TypeVar("ModelT", bound=BaseModel)


def run_at(folder: Path) -> Run | None:
    """Return the run in a folder, or None if there is none.

    Raises:
        BadInput: Its configuration is damaged.
    """
    try:
        text = (folder / CONFIG).read_bytes()
    except OSError:
        return None
    if _is_of_another_tool(text):
        return None
    return Run(folder, _parse(Config, text, folder / CONFIG))


def _is_of_another_tool(text: bytes) -> bool:
    """Return whether a configuration is whole and of no run: many tools write a config.json."""
    try:
        content = from_json(text)
    except ValueError:
        return False
    return not isinstance(content, dict) or "run_id" not in content


def run_of(checkpoint: Path) -> Run | None:
    """Return the run in whose folder a checkpoint lies, or None if it lies in none.

    Raises:
        BadInput: The run's configuration is damaged.
    """
    folder = checkpoint.resolve().parent
    return run_at(folder.parent if folder.name == "checkpoints" else folder)


def model_of(path: Path) -> Path:
    """Return the file of a model, which is given itself or by its run's folder.

    Raises:
        BadInput: There is no such file or folder, or no model in the folder.
    """
    if path.is_dir():
        for name in MODELS:
            if (path / name).is_file():
                return path / name
        raise BadInput(
            f"{path}: has neither {' nor '.join(MODELS)}; give the folder of a run that is done, "
            "or a checkpoint"
        )
    if not path.is_file():
        raise BadInput(f"{path}: no such file; give a checkpoint, such as final.pt of a run")
    return path


def rounds_of(run: Run) -> list[Round]:
    """Return the rounds that are done.

    Raises:
        BadInput: A line is damaged.
    """
    path = run.folder / ROUNDS
    try:
        # Without a last line that is being written.
        whole, _, _ = path.read_bytes().rpartition(b"\n")
    except FileNotFoundError:
        return []
    return [_parse(Round, line, path) for line in whole.splitlines()]


def final_validation(run: Run) -> Validation | None:
    """Return how good the last model is at the hospitals; None if the run does not tell.

    Raises:
        BadInput: The file is damaged.
    """
    status = _status(run)
    return _with_pooled(status.validation, status.pooled) if status.validation else None


def average_scores(run: Run) -> tuple[Scores | None, Validation | None]:
    """Return how good the moving average of the models is on the test films and at the hospitals.

    Raises:
        BadInput: The file is damaged.
    """
    scores = _status(run).ema
    if scores is None:
        return None, None
    return scores.test, _with_pooled(scores.validation, scores.pooled)


def _with_pooled(validation: Validation, pooled: Pooled | None) -> Validation:
    return validation.model_copy(update={"pooled": pooled})


def _status(run: Run) -> Status:
    path = run.folder / "status.json"
    try:
        return _parse(Status, path.read_bytes(), path)
    except FileNotFoundError:
        return Status()


def _parse(model: type[ModelT], text: bytes, path: Path) -> ModelT:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise BadInput(
            f"{path}: damaged ({first_problem(error)}); restore it from a backup"
        ) from None
