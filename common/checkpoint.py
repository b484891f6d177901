"""Checkpoints: a dict that ``torch.load(weights_only=True)`` can read.

::

    format        1
    architecture  densenet121 or densenet-tiny
    state_dict    torchvision's DenseNet names
    input         normalisation, crop, order of findings, see common/model_input.py; absent in
                  checkpoints of earlier versions
    provenance    origin of the weights, see Provenance
    strategy      state of a federated strategy between rounds, the moving average of the models,
                  and what went out, and has not yet, where that was encoded; absent if empty
"""

from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from torch import Tensor

from common.errors import BadInput, first_problem
from common.findings import FINDINGS
from common.fit import fit
from common.model import tensor_of
from common.model_input import ModelInput
from common.options import Architecture, HeadChoice
from common.provenance import Provenance
from common.runtime.files import remedy
from common.state import State
from common.tensor_file import HoldsObjects, read_tensors, write_tensors

FORMAT = 1


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
        "input": ModelInput().model_dump(),
        "state_dict": _tensors(state),
        "provenance": provenance.model_dump(),
    }
    if strategy:
        content["strategy"] = _tensors(strategy)
    write_tensors(path, content)


def _tensors(state: State) -> dict[str, Tensor]:
    return {name: tensor_of(array) for name, array in state.items()}


def read_strategy(path: Path) -> State:
    """Return what is kept beside the model in a checkpoint of this project; may be empty.

    Raises:
        BadInput: The file does not exist or is damaged.
    """
    return {name: tensor.numpy() for name, tensor in _load(path).get("strategy", {}).items()}


def read_architecture(path: Path) -> Architecture:
    """Return the architecture that a checkpoint tells; densenet121 if it tells none.

    Raises:
        BadInput: The file does not exist or is damaged, or its architecture is not known.
    """
    found = _load(path).get("architecture", "densenet121")
    if found not in get_args(Architecture):
        raise BadInput(
            f"{path}: its architecture {found!r} is not known; give a checkpoint of a "
            f"{' or '.join(get_args(Architecture))}"
        )
    architecture: Architecture = found
    return architecture


def read_checkpoint(
    path: Path,
    architecture: Architecture,
    seed: int,
    head: HeadChoice | None = None,
    *,
    part: bool = False,
    trained: bool = False,
) -> tuple[State, Provenance]:
    """Read a checkpoint: this project's, or what another tool saved of the same network.

    Args:
        path: The file.
        architecture: Required architecture.
        seed: Seed of a random head, where the file has none that fits.
        head: Whether to keep the file's head; None: refuse it if its findings cannot be known.
        part: Whether a model will do of which hospitals share only a part.
        trained: Whether the head must have been trained for the findings: a random one or that of
            a pretraining will not do.

    Returns:
        The whole state, and its provenance: the file's own, or what was taken of another tool's.

    Raises:
        BadInput: The file does not exist, is truncated, holds objects, has another architecture or
            format, several encoders or a head of unknown findings, or a key does not fit or is not
            finite. The message names the key.
    """
    content = _load(path)
    provenance = None
    keys = content.keys()
    if keys >= {"state_dict", "architecture"} and not keys.isdisjoint({"format", "provenance"}):
        _check_header(path, content, architecture)
        provenance = _read_provenance(path, content)
        if provenance is not None and not part:
            _check_whole(path, provenance, head)
        if provenance is not None and trained and provenance.run is None:
            raise BadInput(
                f"{path}: the head is not trained (the origin is {provenance.describe()}); give "
                "final.pt or best.pt of a run"
            )
        _check_input(path, content, head, trained=trained)
        if not isinstance(content["state_dict"], dict):
            raise BadInput(f"{path}: holds no state_dict; give a checkpoint or a state dict")
        content = {"state_dict": content["state_dict"]}
    ours = provenance is not None
    state, taken = fit(content, architecture, seed, head, str(path), ours=ours, trained=trained)
    if provenance is None:
        provenance = Provenance(method="checkpoint", taken=taken)
    elif head == "replace":
        provenance = provenance.model_copy(update={"taken": taken})
    return state, provenance


def _load(path: Path) -> dict[str, Any]:
    try:
        content = read_tensors(path)
    except FileNotFoundError:
        raise BadInput(
            f"{path}: no such file{_where(path)}; give --init random, imagenet or a checkpoint"
        ) from None
    except IsADirectoryError:
        raise BadInput(f"{path}: a folder, not a file{_empty_folder(path)}") from None
    except OSError as error:
        how = remedy(error, "copy it again")
        raise BadInput(f"{path}: cannot be read: {error.strerror}; {how}") from None
    except HoldsObjects as error:
        raise BadInput(
            f"{path}: holds objects ({error}), and loading them could run any code; where you "
            "trust the file, save its weights alone: torch.save(model.state_dict(), 'weights.pt') "
            "or torch.save(checkpoint['state_dict'], 'weights.pt')"
        ) from None
    except ValueError:
        raise BadInput(
            f"{path}: cut, damaged or no checkpoint (weights_only must load it); copy it again"
        ) from None
    if not isinstance(content, dict):
        raise BadInput(f"{path}: holds no dict; give a checkpoint or a state dict")
    return content


def _where(path: Path) -> str:
    """Return what a missing file's folder tells, where it looks like one that is not mounted."""
    folder = path.parent
    if not folder.is_dir():
        return f", as there is no folder {folder}; in a container: is it mounted?"
    if _is_empty(folder):
        return f", as {folder} is empty; in a container: is the right folder mounted?"
    return ""


def _empty_folder(path: Path) -> str:
    """Return what to do about a folder in a file's place."""
    if not _is_empty(path):
        return "; give a checkpoint"
    return (
        ", and empty: Docker makes one where the file of a -v is not there; remove it on the host, "
        "put the checkpoint in its place and make the container again"
    )


def _is_empty(folder: Path) -> bool:
    try:
        return not any(folder.iterdir())
    except OSError:
        return False  # it may not be listed


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


def _check_whole(path: Path, provenance: Provenance, head: HeadChoice | None) -> None:
    shared = provenance.shared
    if shared in (None, "all") or (shared == "backbone" and head == "replace"):
        return
    raise BadInput(
        f"{path}: of this model only a part was trained together (--shared {shared}), the rest is "
        "each hospital's own; give a whole one, which each hospital has in its --state/models"
    )


def _check_input(
    path: Path, content: dict[str, Any], head: HeadChoice | None, *, trained: bool
) -> None:
    """Check that a checkpoint's outputs are this project's findings; old ones do not tell."""
    if "input" not in content:
        return
    try:
        found = ModelInput.model_validate(content["input"])
    except ValidationError as error:
        raise BadInput(f"{path}: input: {first_problem(error)}; was it edited?") from None
    if tuple(found.findings) != FINDINGS and head != "replace":
        raise BadInput(
            f"{path}: its outputs are other findings, or in another order "
            f"({', '.join(found.findings)}); "
            + ("give another model" if trained else "--head replace starts with a random head")
        )
