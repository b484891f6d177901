"""The folder of a pretraining, next to its checkpoint: ``NAME.run`` for ``NAME.pt``.

::

    config.json     recipe and data of the run, and its id
    metrics.jsonl   loss, learning rate, speed and signs of collapse, every few steps
    tensorboard/    the metrics for TensorBoard, unless --track leaves it out
    trainer.pt      networks, optimiser and step, for --resume
    status.json     progress of the run; a terminal state once the process has ended
"""

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from common.errors import BadInput
from common.runtime.files import (
    append_json,
    drop_temporary,
    locked,
    read_lines,
    write_json,
    write_whole,
)
from common.runtime.status import STATUS, Status, StatusFile
from common.tensor_file import read_tensors, write_tensors
from common.track.base import End, Model, TrackedRun
from common.track.options import TrackerName
from common.track.trackers import Trackers


class PretrainStatus(Status):
    """Progress of a pretraining, or how it ended."""

    state: Literal["running", "finished", "stopped", "failed"]
    step: int | None = Field(None, description="last saved step")
    steps: int | None = Field(None, description="steps of the whole pretraining")


METRICS = "metrics.jsonl"
TRAINER = "trainer.pt"
CONFIG = "config.json"
RUN_ID = "run_id"

REGISTERED = "fedcxr-pretrained"
"""Name of the registered model; each pretraining makes a version of it."""

STATE = {"step", "parameters", "buffers", "optimizer"}
"""Keys of a trainer's state."""


def precision_of(path: Path) -> Literal["fp32", "bf16"] | None:
    """Return the precision that the run in a folder was begun in; None: there is no such run."""
    try:
        found = json.loads((path / CONFIG).read_bytes())["precision"]
    except (OSError, ValueError, TypeError, KeyError):
        return None  # what is damaged is named when the run goes on
    return "bf16" if found == "bf16" else "fp32"


def can_resume(path: Path, out: Path) -> bool:
    """Return whether a run can go on in a folder, or begin: a checkpoint is never written over."""
    return (path / TRAINER).exists() or not out.exists()


class RunFolder:
    """Reads and writes the files of a pretraining.

    Args:
        path: The folder; :meth:`held` creates it.
        track: Trackers that are told of the run.

    Attributes:
        status: The status file.
    """

    def __init__(self, path: Path, track: Sequence[TrackerName] = ()) -> None:
        self.path = path
        self.status = StatusFile(path)
        self._track = track
        self._trackers: Trackers | None = None

    @contextmanager
    def held(self, out: Path) -> Iterator[None]:
        """Create the folder and lock it for the duration of the block.

        Args:
            out: The run's checkpoint.

        Raises:
            BadInput: The folder cannot be created, or another process has locked it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be made: {error.strerror}") from None
        with locked(self.path, out):
            yield

    def begin(self, config: dict[str, Any], out: Path, resume: bool) -> None:
        """Begin a run, or prepare to resume one.

        Args:
            config: Everything that decides the result.
            out: The run's checkpoint.
            resume: Whether to resume an existing run.

        Raises:
            BadInput: A run or a checkpoint would be overwritten, the run was begun with another
                config, or its state is damaged.
        """
        file, before = self.path / CONFIG, dict[str, Any]()
        if not can_resume(self.path, out):
            raise BadInput(f"{out}: exists, but has no state to resume from; choose another --out")
        if file.exists():
            if not resume:
                raise BadInput(
                    f"{self.path}: a run exists; continue with --resume, or choose another --out"
                )
            before = _check_same(file, config, out)
        state = self.read_state()
        identity = before.get(RUN_ID) or secrets.token_hex(6)
        write_json(file, {RUN_ID: identity, **config})
        for path in (out, *(self.path / name for name in (TRAINER, METRICS, CONFIG, STATUS))):
            drop_temporary(path)
        step = state["step"] if state else 0
        self._drop_metrics_after(step)
        run = TrackedRun(identity, self.path.resolve().name, self.path, "step", _leaves(config))
        self._trackers = Trackers(self._track, run, METRICS)
        for line in read_lines(self.path / METRICS):
            self._tell(line)

    def write_metrics(self, line: dict[str, Any]) -> None:
        """Append a line, which must have ``step``, to ``metrics.jsonl``, and tell the trackers."""
        append_json(self.path / METRICS, line)
        self._tell(line)

    def _tell(self, line: dict[str, Any]) -> None:
        if self._trackers is not None:
            values = {name: value for name, value in line.items() if name != "step"}
            self._trackers.points("", line["step"], values)

    def register(self, out: Path) -> None:
        """Send the checkpoint to the trackers that keep models."""
        if self._trackers is not None:
            text = (
                f"The backbone of the pretraining {out.name}: a first model for "
                f"`flower-server --init {out.name}`. Its head is random.\n"
            )
            self._trackers.model(Model(REGISTERED, (out,), text))

    def close(self, end: End) -> None:
        """Tell the trackers how the run ended."""
        if self._trackers is not None:
            self._trackers.close(end)

    def write_state(self, state: dict[str, Any]) -> None:
        """Replace ``trainer.pt``."""
        write_tensors(self.path / TRAINER, state)

    def read_state(self) -> dict[str, Any] | None:
        """Return the state in ``trainer.pt``, on the CPU; None if the run was not saved yet.

        The keys are those of :meth:`pretrain.trainer.Trainer.state`.

        Raises:
            BadInput: The file is damaged or cannot be read.
        """
        file = self.path / TRAINER
        try:
            state = read_tensors(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadInput(f"{file}: cannot be read: {error.strerror}") from None
        except ValueError:
            raise _damaged(file) from None
        if not isinstance(state, dict) or state.keys() != STATE:
            raise _damaged(file)
        return state

    def _drop_metrics_after(self, step: int) -> None:
        """Drop the metrics of steps that will be repeated, and an incomplete last line."""
        file = self.path / METRICS
        if not file.exists():
            return
        whole = [line for line in file.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n"]
        try:
            kept = b"".join(line for line in whole if json.loads(line)["step"] <= step)
        except (ValueError, TypeError, KeyError):
            # The weights are whole: only what is known of earlier steps is lost.
            raise BadInput(f"{file}: damaged; move it away and go on with --resume") from None
        write_whole(file, lambda target: target.write(kept))


def _damaged(file: Path) -> BadInput:
    return BadInput(f"{file}: damaged; start again with another --out")


def _check_same(file: Path, config: dict[str, Any], out: Path) -> dict[str, Any]:
    """Return what the run was begun with, which must be the same."""
    try:
        before: dict[str, Any] = json.loads(file.read_bytes())
    except ValueError:
        raise _damaged(file) from None
    was, given = _leaves(before), _leaves(json.loads(json.dumps(config)))
    was.pop(RUN_ID, None)
    for name in sorted(was.keys() | given.keys()):
        if was.get(name) != given.get(name):
            remedy = "give the same options, or another --out"
            if name == "epochs" and out.exists():
                remedy = f"to train {out} for more epochs, give --init {out} and another --out"
            raise BadInput(
                f"--resume: {name} was {was.get(name)} when the run was begun and is "
                f"{given.get(name)} now; {remedy}"
            )
    return before


def _leaves(config: Any, name: str = "") -> dict[str, Any]:
    """Flatten nested settings to names such as ``optimizer.lr``."""
    if isinstance(config, list):
        config = dict(enumerate(config))
    if not isinstance(config, dict):
        return {name: config}
    parts = [_leaves(value, f"{name}.{key}" if name else str(key)) for key, value in config.items()]
    return {name: value for part in parts for name, value in part.items()}
