"""Models as a run leaves them."""

from pathlib import Path

from common.checkpoint import write_checkpoint
from common.model import build_model, state_of
from common.options import Architecture
from common.provenance import Provenance


def write_model(
    path: Path, architecture: Architecture = "densenet-tiny", **provenance: object
) -> Path:
    """Write a model as a run leaves it, with random weights."""
    fields = {"method": "fedavg", "run": "abc", "round": 2, **provenance}
    state = state_of(build_model(architecture, 3))
    write_checkpoint(path, state, architecture, Provenance.model_validate(fields))
    return path
