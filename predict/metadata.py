"""The file beside an exported model that says what it takes and returns.

Its fields are those that the MONAI Bundle specification asks of ``metadata.json``, but for MONAI's
version: nothing here needs it. What this project needs to know stands in the field ``fedcxr``.
https://docs.monai.io/en/stable/mb_specification.html
"""

from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import BadInput, first_problem
from common.findings import FINDINGS
from common.options import Architecture
from common.provenance import Provenance
from common.runtime.files import sha256_of
from common.shard import SMALLEST
from predict.calibration import Calibrated

TASK = "Findings on frontal chest radiographs"

DESCRIPTION = "A DenseNet that gives each of the fourteen findings of ChestX-ray14 a probability."

FEDERATED = f"{DESCRIPTION} Hospitals trained it together; no film left a hospital."
"""Of a model of a run."""

INTENDED_USE = (
    "Research on federated learning and on chest radiographs. Not a medical device: not for "
    "diagnosis, triage or any other decision about a patient."
)


class TensorFormat(BaseModel):
    """What a tensor holds, by the specification's words."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str
    format: str
    modality: str = "n/a"
    num_channels: int
    spatial_shape: list[int]
    dtype: str
    value_range: list[float]
    is_patch_data: bool = False
    channel_def: dict[str, str]


class DataFormat(BaseModel):
    """What goes in and comes out, by the tensors' names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: dict[str, TensorFormat]
    outputs: dict[str, TensorFormat]


class Exported(BaseModel):
    """What this project needs to use the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(description="of the file with the weights")
    architecture: Architecture
    image_size: int | None = Field(
        ge=SMALLEST, description="S, pixels along each side of the films; null: not known"
    )
    preparation: str = Field(description="how a film becomes the input")
    provenance: Provenance | None = Field(description="where the weights came from")
    calibration: dict[str, Calibrated] = Field(
        {}, description="how logits become calibrated probabilities, and thresholds, by finding"
    )


class Metadata(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = version("fedcxr")
    changelog: dict[str, str] = {}
    pytorch_version: str
    numpy_version: str
    optional_packages_version: dict[str, str] = {}
    task: str = TASK
    description: str
    authors: str
    copyright: str
    intended_use: str = INTENDED_USE
    data_type: str = "radiographs, 8-bit grey"
    eval_metrics: dict[str, float] = Field({}, description="mean AUC by the set of films")
    network_data_format: DataFormat
    fedcxr: Exported


PROBABILITIES = TensorFormat(
    type="probabilities",
    format="classes",
    num_channels=len(FINDINGS),
    spatial_shape=[],
    dtype="float32",
    value_range=[0, 1],
    channel_def={str(i): finding for i, finding in enumerate(FINDINGS)},
)

LOGITS = PROBABILITIES.model_copy(update={"type": "series", "format": "raw", "value_range": []})
"""The sigmoid of each is the probability."""


def metadata_path(file: Path) -> Path:
    """Return where the metadata of an exported file is."""
    return file.with_name(f"{file.name}.json")


def read_metadata(file: Path) -> Exported | None:
    """Return what was noted when a file was exported; None if it was not, or is another file now.

    Raises:
        BadInput: The metadata is damaged.
    """
    path = metadata_path(file)
    try:
        exported = Metadata.model_validate_json(path.read_bytes()).fedcxr
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise BadInput(
            f"{path}: not what flower-export wrote ({first_problem(error)}); export again, or "
            "remove it"
        ) from None
    return exported if exported.sha256 == sha256_of(file) else None
