"""``flower-pretrain``: pretrains a federation's first model on radiographs without labels."""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from common.errors import BadInput, FedCXRError
from common.options import Architecture
from common.runtime.cli import Settings, Stopped, leave, parse, run_command
from common.runtime.files import remedy, sha256_of
from common.runtime.guard import Guard
from common.shard import MANIFEST, Shard, open_for_training, open_shard
from common.track.options import TRACK_HELP, Track, check_usable
from pretrain.presets import make_recipe
from pretrain.recipe import MethodName, PresetName, Recipe

if TYPE_CHECKING:
    import torch

    from pretrain.engine import Engine
    from pretrain.run_folder import RunFolder

log = logging.getLogger(__name__)


class PretrainSettings(Settings):
    """Pretrain a backbone on radiographs without labels; the preset gives the defaults."""

    model_config = SettingsConfigDict(
        env_prefix="FLOWER_PRETRAIN_", cli_prog_name="flower-pretrain"
    )

    data: Path = Field(description="shard to pretrain on; labels are ignored")
    method: MethodName = Field(description="pretraining method")
    out: Path = Field(description="checkpoint NAME.pt; metrics and state go into NAME.run")
    preset: PresetName = Field(
        "cxr", description="defaults: for radiographs, of the paper, or of the method's authors"
    )
    epochs: int | None = Field(None, ge=1, description="over all images")
    batch_size: int | None = Field(
        None, ge=2, description="images per step over all GPUs; for rotation: rotated copies"
    )
    image_size: int | None = Field(
        None, ge=32, description="pixels of a view; default: 7/8 of the shard's, 224 of 256"
    )
    init: str = Field("random", description="initial weights: random, imagenet or a checkpoint")
    resume: bool = Field(False, description="continue an interrupted run, or start one")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    seed: int = Field(0, ge=0, description="decides every random draw")
    lr: float | None = Field(
        None, gt=0, description="learning rate at batch 256, scaled with the batch"
    )
    flip: float | None = Field(None, ge=0, le=1, description="chance of a horizontal flip")
    temperature: float | None = Field(None, gt=0, description="for mocov2 and simclr")
    queue: int | None = Field(None, ge=1, description="for mocov2: keys kept as negatives")
    ema: float | None = Field(
        None, ge=0, le=1, description="for mocov2 and byol: momentum of the slow encoder"
    )
    accumulate: int | None = Field(
        None,
        ge=1,
        description="compute a batch in this many parts; changes the result: BatchNorm and "
        "SimCLR's negatives use one part",
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="auto: bf16 on a GPU, fp32 on a CPU; with --resume as the run was begun"
    )
    compile: bool = Field(
        False, description="compile the networks: slow to start, then faster; needs a compiler"
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: all cores")
    probe: Path | None = Field(None, description="labelled shard to score features on by k-NN")
    probe_every: int = Field(10, ge=1, description="epochs between two scores on --probe")
    track: Track = Field(["tensorboard"], description=TRACK_HELP)
    architecture: Architecture = Field("densenet121", description="densenet-tiny is for tests")


CHANGES = (
    *("epochs", "batch_size", "accumulate", "init", "architecture", "seed"),
    *("lr", "flip", "temperature", "queue", "ema"),
)
"""Options that change one field of the recipe."""


def pretrain(arguments: Sequence[str]) -> None:
    """Pretrain as the arguments of ``flower-pretrain`` say.

    Raises:
        BadInput: An option or a file cannot be used.
    """
    settings = parse(PretrainSettings, arguments)
    check_usable(settings.track)
    guard = Guard()
    changes = settings.model_dump(include=set(CHANGES))
    recipe_with = partial(make_recipe, settings.preset, settings.method, **changes)
    recipe_with()
    _check_free(settings)
    shard = open_for_training(settings.data)
    probe = open_shard(settings.probe) if settings.probe else None
    if probe is not None:
        probe.labelled()

    import torch

    from common.images import crop_size
    from common.model import choose_device, is_fast_in_bf16
    from common.runtime.logs import log_to_stderr
    from pretrain.distributed import own_device, process_group, rank
    from pretrain.engine import Engine
    from pretrain.run_folder import PretrainStatus, RunFolder, precision_of

    log_to_stderr(settings.debug)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = choose_device(own_device(settings.device))
    if settings.compile:
        _check_compiler(device)
    fastest = "bf16" if device.type == "cuda" and is_fast_in_bf16(device) else "fp32"
    begun = precision_of(run_folder_of(settings.out)) if settings.resume else None
    recipe = recipe_with(
        image_size=settings.image_size or crop_size(shard.manifest.size),
        precision=(begun or fastest) if settings.precision == "auto" else settings.precision,
    )
    with process_group(device):
        folder = RunFolder(run_folder_of(settings.out), settings.track)
        if rank():
            logging.disable()
        with _within_memory(settings.method):
            engine = Engine(
                recipe,
                shard,
                settings.out,
                device,
                None if rank() else folder,
                compiled=settings.compile,
                probe=probe,
                probe_every=settings.probe_every,
            )
        with nullcontext() if rank() else folder.held(settings.out):
            _begin(settings, recipe, shard, engine, folder, device)
            if not rank():
                guard.last_words = lambda stopped: folder.status.end(
                    PretrainStatus(state="stopped", reason=str(stopped))
                )
            with (
                nullcontext() if rank() else _terminal_status(folder),
                _within_memory(settings.method),
            ):
                state = folder.read_state() if settings.resume else None
                if state is not None:
                    engine.trainer.load(state)
                    log.info("continuing after step %d", state["step"])
                engine.run()
                if not rank():
                    folder.register(settings.out)
            log.info("written: %s", settings.out)


def _begin(
    settings: PretrainSettings,
    recipe: Recipe,
    shard: Shard,
    engine: "Engine",
    folder: "RunFolder",
    device: "torch.device",
) -> None:
    """Let the first process begin the run; if it fails, raise its error in all processes."""
    from pretrain.distributed import fail_together, rank
    from pretrain.introduction import introduce

    error: FedCXRError | None = None
    if rank() == 0:
        introduce(recipe, shard, engine.trainer.steps, device)
        try:
            folder.begin(_config(recipe, shard), settings.out, settings.resume)
        except FedCXRError as found:
            error = found
        except OSError as found:
            error = _unwritable(folder, found)
    fail_together(error, device)


def run_folder_of(out: Path) -> Path:
    """Return the folder that belongs to a checkpoint: ``NAME.run`` for ``NAME.pt``."""
    return out.with_suffix(".run")


def _check_free(settings: PretrainSettings) -> None:
    """Check --out early: :meth:`RunFolder.begin` comes after torch is loaded."""
    out = settings.out
    if out.suffix != ".pt":
        raise BadInput(f"--out {out}: give a name that ends in .pt, such as moco.pt")
    try:
        there = [path for path in (out, run_folder_of(out)) if path.exists()]
    except OSError as error:
        raise BadInput(f"--out {out}: {error.strerror}; choose another") from None
    if there and not settings.resume:
        from pretrain.run_folder import can_resume

        how = ", or give --resume" if can_resume(run_folder_of(out), out) else ""
        raise BadInput(f"{there[0]}: is there already; choose another --out{how}")


def _check_compiler(device: "torch.device") -> None:
    """Check for a compiler early: torch would fail at the first step."""
    if device.type == "cpu":
        language, names = "C++", [os.environ.get("CXX", "g++")]
    else:
        language, names = "C", [os.environ.get("CC", "cc"), "gcc", "clang"]
    if not any(map(shutil.which, names)):
        raise BadInput(
            f"--compile: needs a {language} compiler; install {names[-1]}, or omit the option"
        )


def _config(recipe: Recipe, shard: Shard) -> dict[str, Any]:
    """Return everything that decides the result."""
    from pretrain.distributed import processes

    start = Path(recipe.init)
    return recipe.model_dump(mode="json") | {
        "init": start.name,
        "data": sha256_of(shard.path / MANIFEST),
        "init_sha256": sha256_of(start) if start.is_file() else None,
        "processes": processes(),
    }


@contextmanager
def _terminal_status(folder: "RunFolder") -> Iterator[None]:
    """Write the status at the start and at the end of the block; turn file errors into BadInput."""
    from pretrain.run_folder import PretrainStatus

    try:
        folder.status.write(PretrainStatus(state="running"))
        yield
    except BaseException as error:
        text = str(error) if isinstance(error, FedCXRError | Stopped) else type(error).__name__
        reason = error.strerror if isinstance(error, OSError) else text
        state: Literal["stopped", "failed"] = "stopped" if isinstance(error, Stopped) else "failed"
        folder.status.end(PretrainStatus(state=state, reason=reason))
        folder.close(state)
        if isinstance(error, OSError):
            raise _unwritable(folder, error) from error
        raise
    folder.status.end(PretrainStatus(state="finished"))
    folder.close("finished")


def _unwritable(folder: "RunFolder", error: OSError) -> BadInput:
    return BadInput(
        f"{error.filename or folder.path}: {error.strerror}; {remedy(error)} and go on with "
        "--resume"
    )


@contextmanager
def _within_memory(method: str) -> Iterator[None]:
    """Turn out-of-memory errors into BadInput with a remedy for the method."""
    from common.model import is_out_of_memory

    try:
        yield
    except MemoryError:
        raise BadInput(f"out of memory; {_smaller(method)}") from None
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):  # torch's own word for it on a CPU
            raise BadInput(f"out of memory; {_smaller(method)}") from None
        if not is_out_of_memory(error):
            raise
        raise BadInput(f"out of GPU memory; {_smaller(method)}") from None


def _smaller(method: str) -> str:
    """Return what to do for want of memory; what was begun cannot go on with another batch."""
    others = {"simclr": "", "mocov2": ", --accumulate or a smaller --queue"}
    return (
        "free memory and go on with --resume, or start again with another --out and a smaller "
        f"--batch-size{others.get(method, ' or --accumulate')}"
    )


def main() -> None:
    """Run ``flower-pretrain`` and exit with its code."""
    leave(run_command("flower-pretrain", pretrain))
