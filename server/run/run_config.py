"""What stands in a run's ``config.json``, as a typed record; needs no torch."""

from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError
from pydantic_core import from_json

from common.errors import BadInput, first_problem
from server.run.events import Changed
from server.run.options import RunOptions


class RunConfig(RunOptions):
    """What a run was started with; other options than those named here are kept as they are."""

    model_config = ConfigDict(extra="allow", frozen=True)

    run_id: str
    name: str | None = Field(None, description="that people chose")
    init: str
    rounds: int
    architecture: str
    seed: int
    image_size: int | None = None
    init_sha256: str | None = None
    test_sha256: str | None = None
    test_positives: dict[str, int] | None = Field(
        None, description="test films that have each finding; None: no test, or not recorded"
    )
    origin: dict[str, Any] | None = Field(
        None, description="provenance of the first model; None in runs of earlier versions"
    )
    versions: dict[str, str] = Field({}, description="of the server's programs")
    changes: tuple[Changed, ...] = Field((), description="made when the run went on")

    @property
    def method(self) -> str:
        """Strategy, local training, what is shared, how and by whom, in words, where unusual."""
        words: list[str] = [self.strategy]
        if self.average != "weighted":
            words.append(f"along the {self.average}")
        if self.local not in ("sgd", self.strategy):
            words.append(f"with {self.local}")
        if self.shared != "all":
            words.append(f"sharing {self.shared}")
        if self.wire != "fp32":
            words.append(f"sent in {self.wire}")
        if self.dp != "none":
            words.append(f"with noise ({self.dp})")
        if self.fraction < 1:
            words.append(f"asking {self.fraction:.0%}")
        if self.rounds_end:
            words.append(f"ending rounds with {self.rounds_end} replies")
        if self.secure_aggregation:
            words.append("in secure sums")
        return " ".join(words)

    def epochs_in(self, number: int) -> int:
        """Return how many epochs hospitals train in a round."""
        changed = [
            change.new
            for change in self.changes
            if change.option == "local_epochs" and change.round < number
        ]
        return int(changed[-1]) if changed else self.local_epochs


def is_evaluation(run: Path) -> bool:
    """Return whether a folder has the configuration of an evaluation."""
    return "models" in _names_in(run / "config.json")


def read_config(run: Path) -> RunConfig:
    """Return what a run was started with.

    Raises:
        BadInput: There is no such run, the folder is of something else, or the file is damaged.
    """
    path = run / "config.json"
    try:
        return RunConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInput(
            f"{path}: {error.strerror}; name the folder of a run that was started"
        ) from None
    except ValidationError as error:
        if is_evaluation(run):
            problem = f"{run}: is the folder of an evaluation; its table is {run / 'table.json'}"
        elif (names := _names_in(path)) and not {"run_id", "rounds"} <= names:
            problem = f"{path}: is of no run; name the folder of a run, or restore it from a backup"
        else:
            problem = f"{path}: {first_problem(error)}; restore it from a backup"
        raise BadInput(problem) from None


def _names_in(path: Path) -> set[str]:
    """Return the names of the fields in a file, empty if it cannot be read as JSON with fields."""
    try:
        content = from_json(path.read_bytes())
    except (OSError, ValueError):
        return set()
    return set(content) if isinstance(content, dict) else set()
