"""Checkpoints: a dict that ``torch.load(weights_only=True)`` can read.

::

    format        1
    architecture  densenet121 or densenet-tiny
    state_dict    torchvision's DenseNet names
    provenance    origin of the weights, see Provenance
    strategy      state of a federated strategy between rounds; absent if empty

In this mode torch's unpickler builds only tensors and plain containers.
"""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from common.errors import BadInput, first_problem
from common.model import build_model, state_of
from common.options import Architecture
from common.runtime.files import write_whole
from common.state import HEAD_PREFIX, State

FORMAT = 1

PREFIXES = re.compile(r"^(?:(?:module|densenet121)\.)+")

OLD_NAME = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")
"""Names in torchvision's downloads, such as ``norm.1`` for ``norm1``; renamed on loading."""


class Provenance(BaseModel):
    """The origin of a checkpoint's weights; fields that do not apply are null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = Field(
        description="random, imagenet, the federated strategy or the pretraining method"
    )
    preset: str | None = None
    data: str | None = Field(None, description="SHA-256 of the data's manifest")
    source: str | None = Field(None, description="origin of the data, from its manifest")
    images: int | None = Field(None, description="number of images for pretraining")
    epochs: int | None = None
    settings: dict[str, Any] | None = Field(None, description="all settings of a pretraining")
    run: str | None = Field(None, description="the federated run")
    round: int | None = Field(None, description="the round of that run")
    init: str | None = Field(None, description="initial weights")
    start: "Provenance | None" = Field(None, description="provenance of the initial checkpoint")
    seed: int | None = None
    versions: dict[str, str] = Field(default_factory=dict, description="of fedcxr, torch, ...")

    def describe(self) -> str:
        """Return method, preset, epochs, data and initial weights in one line, for a log."""
        text = self.method
        if self.preset is not None:
            text += f" (preset {self.preset})"
        if self.epochs is not None:
            text += f", {self.epochs} epochs"
        if self.images is not None:
            text += f" on {self.images:,} images of {self.source}"
        if self.data is not None:
            text += f" (manifest {self.data[:12]})"
        if self.round is not None:
            text += f", round {self.round}"
        if self.start is not None:
            text += f", from {self.start.describe()}"
        elif self.init not in (None, self.method):
            text += f", from {self.init}"
        return text


def write_checkpoint(
    path: Path,
    state: State,
    architecture: Architecture,
    provenance: Provenance,
    strategy: State | None = None,
) -> None:
    """Write a checkpoint atomically: fsynced, then renamed into place.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "architecture": architecture,
        "state_dict": _tensors(state),
        "provenance": provenance.model_dump(),
    }
    if strategy:
        content["strategy"] = _tensors(strategy)
    write_tensors(path, content)


def _tensors(state: State) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in state.items()}


def read_strategy(path: Path) -> State:
    """Return the strategy's state in a checkpoint of this project; empty if there is none.

    Raises:
        BadInput: The file does not exist or is damaged.
    """
    return {name: tensor.numpy() for name, tensor in _load(path).get("strategy", {}).items()}


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write a dict of tensors and plain values atomically: fsynced, then renamed into place.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    try:
        write_whole(path, lambda file: torch.save(content, file))
    except RuntimeError as error:
        # torch hides the reason, even a signal, behind an error of its archive writer.
        reason = error.__context__
        if isinstance(reason, OSError) or (reason and not isinstance(reason, Exception)):
            raise reason from None
        raise


def read_tensors(path: Path) -> Any:
    """Read a file of :func:`write_tensors`, onto the CPU.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is truncated, damaged, or has more than tensors and plain values.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        return torch.load(content, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - torch can raise anything for a damaged file
        raise ValueError("no tensors") from None


def read_checkpoint(
    path: Path, architecture: Architecture, seed: int
) -> tuple[State, Provenance | None]:
    """Read a checkpoint of this project, or a plain state dict of torchvision.

    A classifier that is not 14-way is replaced by a random one.

    Args:
        path: The file.
        architecture: Required architecture.
        seed: Seed of a replaced classifier.

    Returns:
        The whole state, and the provenance if the file has one.

    Raises:
        BadInput: The file does not exist, is truncated, has another architecture or format, or a
            key does not fit or is not finite. The message names the key.
    """
    content = _load(path)
    provenance = None
    if "state_dict" in content:
        _check_header(path, content, architecture)
        provenance = _read_provenance(path, content)
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise BadInput(f"{path}: holds no state_dict; give a checkpoint or a state dict")
    return _fit(content, architecture, seed, str(path)), provenance


def _fit(tensors: dict[str, Any], architecture: Architecture, seed: int, source: str) -> State:
    """Return a whole state with the project's names, or raise for the first wrong key."""
    state = state_of(build_model(architecture, seed))
    given = {OLD_NAME.sub(r"\1\2", PREFIXES.sub("", name)): t for name, t in tensors.items()}
    remedy = f"is this a {architecture}?"
    for name, tensor in given.items():
        if name.startswith(HEAD_PREFIX):
            continue
        if name not in state:
            raise BadInput(f"{source}: key {name} does not belong to the model; {remedy}")
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != state[name].shape:
            shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise BadInput(f"{source}: key {name} is {shape}, not {state[name].shape}; {remedy}")
    for name, own in state.items():
        tensor = given.get(name)
        if name.startswith(HEAD_PREFIX):
            fits = isinstance(tensor, Tensor) and tuple(tensor.shape) == own.shape
            tensor = tensor if fits else None
        elif tensor is None and not name.endswith("num_batches_tracked"):
            raise BadInput(f"{source}: key {name} is missing; {remedy}")
        if tensor is not None:
            state[name] = tensor.to(torch.from_numpy(own).dtype).numpy().copy()
            if not np.isfinite(state[name]).all():
                raise BadInput(f"{source}: key {name} is not finite; give another checkpoint")
    return state


def _load(path: Path) -> dict[str, Any]:
    try:
        content = read_tensors(path)
    except FileNotFoundError:
        raise BadInput(
            f"{path}: no such file; give --init random, imagenet or a checkpoint"
        ) from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise BadInput(
            f"{path}: cut, damaged or no checkpoint (weights_only must load it); copy it again"
        ) from None
    if not isinstance(content, dict):
        raise BadInput(f"{path}: holds no dict; give a checkpoint or a state dict")
    return content


def _check_header(path: Path, content: dict[str, Any], architecture: Architecture) -> None:
    if content.get("format", FORMAT) != FORMAT:
        raise BadInput(f"{path}: format {content['format']}, this version reads {FORMAT}")
    found = content.get("architecture", architecture)
    if found != architecture:
        raise BadInput(
            f"{path}: a {found}, but the run is for {architecture}; give another checkpoint or "
            f"--architecture {found}"
        )


def _read_provenance(path: Path, content: dict[str, Any]) -> Provenance | None:
    if "provenance" not in content:
        return None
    try:
        return Provenance.model_validate(content["provenance"])
    except ValidationError as error:
        raise BadInput(f"{path}: provenance: {first_problem(error)}; was it edited?") from None
