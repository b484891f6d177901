"""The demo: ten synthetic hospitals train one DenseNet-121, with and without pretraining.

``python -m experiments.demo`` draws synthetic films, pretrains on those without labels, and lets
ten hospitals on this machine train over gRPC twice: from the checkpoint and from random weights.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from common.errors import FedCXRError
from common.options import Architecture
from common.runtime.cli import Settings, parse, run_command
from common.runtime.files import write_whole
from experiments.demo_results import CAVEAT, page, read_curve, table, verdict
from experiments.launch.local import LocalFederation

DATA = "from radiographs.cli import main; main()"
PRETRAIN = "from pretrain.cli import main; main()"

METHOD = {"method": "simclr", "batch-size": 64, "lr": 2, "temperature": 0.2}
"""Options of ``flower-pretrain``, as for the paper's tables at the scale ``small``."""

TRAINING = {"lr": 0.08, "batch-size": 16, "label-fraction": 0.5}
"""Options of ``flower-server``, the same for both first models."""


class DemoSettings(Settings):
    """Let ten synthetic hospitals train one model on this machine, with and without pretraining."""

    model_config = SettingsConfigDict(env_prefix="FLOWER_DEMO_", cli_prog_name="demo")

    out: Path = Field(Path("demo"), description="folder for data, logs and runs")
    hospitals: int = Field(10, ge=1, description="number of hospitals")
    images: int = Field(128, ge=16, description="mean number of images of a hospital")
    size: int = Field(64, ge=40, description="pixels along each side of an image")
    epochs: int = Field(8, ge=1, description="of pretraining")
    rounds: int = Field(6, ge=1, description="number of rounds, for each first model")
    seed: int = Field(0, ge=0, description="decides every random draw")
    architecture: Architecture = Field("densenet121", description="densenet-tiny is for tests")


def _demo(arguments: Sequence[str]) -> None:
    settings = parse(DemoSettings, arguments)
    start = time.monotonic()
    data = _hospitals(settings)
    folder = settings.out / time.strftime("run-%Y%m%d-%H%M%S")
    folder.mkdir()
    checkpoint = folder / "pretrained.pt"
    _pretrain(settings, data / "pretrain", checkpoint)
    runs = {"pretrained": str(checkpoint), "random": "random"}
    for name, init in runs.items():
        print(f"\nfirst model: {name}", flush=True)
        _train(settings, data, init, folder / name)
    _conclude(settings, data, folder, time.monotonic() - start)


def _hospitals(settings: DemoSettings) -> Path:
    """Draw the films, unless an earlier demo has drawn them."""
    name = f"data-{settings.hospitals}x{settings.images}x{settings.size}-{settings.seed}"
    data = settings.out / name
    if not data.exists():
        options = {
            "out": data,
            **settings.model_dump(include={"hospitals", "images", "size", "seed"}),
        }
        _run(DATA, ["synthetic", *_arguments(options)], f"the films could not be written to {data}")
    return data


def _pretrain(settings: DemoSettings, shard: Path, checkpoint: Path) -> None:
    """Pretrain on the films without labels, in the precision in which the hospitals train."""
    from common.model import choose_device, fastest_precision

    options = {
        "data": shard,
        "out": checkpoint,
        "epochs": settings.epochs,
        "seed": settings.seed,
        "architecture": settings.architecture,
        "precision": fastest_precision(choose_device("auto")),
        **METHOD,
    }
    print("\npretraining on the films without labels", flush=True)
    _run(PRETRAIN, _arguments(options), "pretraining failed")


def _train(settings: DemoSettings, data: Path, init: str, run: Path) -> None:
    """Let the hospitals train from a first model."""
    shards = sorted(data.glob("hospital-*"))
    options = {
        "init": init,
        "run": run,
        "rounds": settings.rounds,
        "min-clients": len(shards),
        "seed": settings.seed,
        "architecture": settings.architecture,
        "test": data / "test",
        "threads": 2,
        **TRAINING,
    }
    with LocalFederation(run.with_name(f"{run.name}-logs")) as federation:
        federation.start_server(_arguments(options), to_terminal=True)
        print(f"starting {len(shards)} hospitals, each as a separate process", flush=True)
        for shard in shards:
            federation.start_client(shard)
        codes = federation.wait()
    failed = {name: code for name, code in codes.items() if code}
    if failed:
        raise FedCXRError(f"processes failed: {failed}; see the logs next to {run}")


def _run(code: str, arguments: Sequence[str], problem: str) -> None:
    if subprocess.run([sys.executable, "-c", code, *arguments], check=False).returncode:
        raise FedCXRError(f"{problem}; see above")


def _arguments(options: dict[str, Any]) -> list[str]:
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def _conclude(settings: DemoSettings, data: Path, folder: Path, seconds: float) -> None:
    """Print both curves, write the page on them, and say what to do next."""
    pretrained, random = read_curve(folder / "pretrained"), read_curve(folder / "random")
    setting = (
        f"Pretraining: SimCLR, {settings.epochs} epochs on films without labels. Training: "
        f"{settings.hospitals} hospitals with a mean of {settings.images} films of "
        f"{settings.size} pixels, {TRAINING['label-fraction']:.0%} of the labels, learning rate "
        f"{TRAINING['lr']}, batch {TRAINING['batch-size']}, seed {settings.seed}. The test films "
        "belong to no hospital."
    )
    report = folder / "report.html"
    write_whole(report, lambda file: file.write(page(pretrained, random, setting).encode()))
    print(f"\n{table(pretrained, random)}\n\n{verdict(pretrained, random)}\n{CAVEAT}")
    print(f"\nThe demo took {seconds / 60:.1f} minutes. Both curves, for a browser: {report}")
    film = _film(folder, data / "test")
    commands = Path(sys.executable).parent
    if commands.is_relative_to(Path.cwd()):
        commands = commands.relative_to(Path.cwd())
    print("Next, look at the rounds of a run, and try its model on a film:")
    print(f"  {commands / 'flower-watch'} {folder / 'pretrained'}")
    print(f"  {commands / 'flower-predict'} {folder / 'pretrained'} {film}")


def _film(folder: Path, shard: Path) -> Path:
    """Write a film of a shard as an image file; return where it is."""
    from PIL import Image

    from common.shard import open_shard

    path = folder / "film.png"
    Image.fromarray(open_shard(shard).images[0]).save(path)
    return path


if __name__ == "__main__":
    sys.exit(run_command("demo", _demo))
