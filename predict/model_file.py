"""The model that is used: a checkpoint of a run, a file of ``flower-export``, or another tool's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torchvision.models import DenseNet

from common.checkpoint import read_architecture, read_checkpoint
from common.errors import BadInput
from common.model import build_model, load_state
from common.options import Architecture
from common.provenance import Provenance
from common.state import State
from predict.calibration import Calibration, calibration_of
from predict.metadata import read_metadata
from predict.run_folder import Run, model_of, run_of


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes:
        file: Where it was read.
        architecture: Which network it is.
        state: Its weights, under torchvision's names.
        provenance: Where the weights came from.
        run: The run in whose folder it lies, if it is that run's.
        size: S, pixels along each side of the films that it was trained on; None: not known.
        calibration: What its run tells of probabilities and thresholds; empty: nothing.
    """

    file: Path
    architecture: Architecture
    state: State
    provenance: Provenance
    run: Run | None
    size: int | None
    calibration: Calibration

    def network(self, device: torch.device) -> DenseNet:
        """Return the network on a device, in evaluation mode."""
        network = build_model(self.architecture)
        load_state(network, self.state)
        return network.to(device).eval()


def read_model(path: Path, head: Literal["keep"] | None = None) -> Model:
    """Read a model whose fourteen outputs are known to be the findings.

    Args:
        path: A checkpoint, or the folder of a run.
        head: Take a head of another tool, whose findings the file does not tell.

    Raises:
        BadInput: There is no such file, it cannot be used, its head was not trained for the
            findings, or their order is not known.
    """
    file = model_of(path)
    if file.suffix == ".onnx":
        raise BadInput(
            f"{file}: an ONNX file is for other programs; give the checkpoint that it was made of, "
            "or have flower-export make a .pt or .safetensors"
        )
    exported = read_metadata(file)
    if exported is not None:
        state, provenance = read_checkpoint(file, exported.architecture, 0, "keep")
        if exported.provenance is not None:
            provenance = exported.provenance
        size, calibration = exported.image_size, exported.calibration
        return Model(file, exported.architecture, state, provenance, None, size, calibration)
    architecture = read_architecture(file)
    state, provenance = read_checkpoint(file, architecture, 0, head, trained=True)
    run = run_of(file)
    if run is not None and run.config.run_id != provenance.run:
        run = None
    if run is None or provenance.round is None:
        return Model(file, architecture, state, provenance, run, _size_of(provenance), {})
    # What a round tells is of its own model, not of the moving average of the models.
    calibration = calibration_of(run, provenance.round) if provenance.ema is None else {}
    return Model(file, architecture, state, provenance, run, run.config.image_size, calibration)


def _size_of(provenance: Provenance) -> int | None:
    """Return the size of the films that a run's model was trained on, if its checkpoint tells."""
    size = (provenance.settings or {}).get("image_size")
    return size if isinstance(size, int) else None
