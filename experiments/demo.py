"""The demo: ten synthetic hospitals train one DenseNet-121 on this machine, over gRPC.

``python -m experiments.demo`` writes synthetic hospitals, starts a server and ten clients, and
prints the rounds and the path of the model.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from common.errors import FedCXRError
from common.runtime.cli import Settings, parse, run_command
from experiments.launch.local import LocalFederation
from server.run.console import number
from server.run.records import InitialModel, read_events, read_rounds

DATA = "from radiographs.cli import main; main()"


class DemoSettings(Settings):
    """Let ten synthetic hospitals train one model on this machine."""

    model_config = SettingsConfigDict(env_prefix="FLOWER_DEMO_", cli_prog_name="demo")

    out: Path = Field(Path("demo"), description="folder for data, logs and runs")
    hospitals: int = Field(10, ge=1, description="number of hospitals")
    images: int = Field(128, ge=16, description="mean number of images of a hospital")
    size: int = Field(64, ge=40, description="pixels along each side of an image")
    rounds: int = Field(10, ge=1, description="number of rounds")
    seed: int = Field(0, ge=0, description="decides every random draw")


def _demo(arguments: Sequence[str]) -> None:
    settings = parse(DemoSettings, arguments)
    data = _hospitals(settings)
    run = settings.out / time.strftime("run-%Y%m%d-%H%M%S")
    shards = sorted(data.glob("hospital-*"))
    with LocalFederation(run.with_name(f"{run.name}-logs")) as federation:
        options = {
            "init": "random",
            "run": run,
            "rounds": settings.rounds,
            "min-clients": len(shards),
            "lr": 0.08,
            "batch-size": 16,
            "seed": settings.seed,
            "test": data / "test",
            "threads": 2,
        }
        server = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        federation.start_server(server, to_terminal=True)
        print(f"starting {len(shards)} hospitals, each as a separate process", flush=True)
        for shard in shards:
            federation.start_client(shard)
        codes = federation.wait()
    failed = {name: code for name, code in codes.items() if code}
    if failed:
        raise FedCXRError(f"processes failed: {failed}; see the logs next to {run}")
    _conclude(run)


def _hospitals(settings: DemoSettings) -> Path:
    """Write the synthetic hospitals, unless an earlier demo has written them."""
    name = f"data-{settings.hospitals}x{settings.images}x{settings.size}-{settings.seed}"
    data = settings.out / name
    if not data.exists():
        command = [sys.executable, "-c", DATA, "synthetic", "--out", str(data)]
        for option in ("hospitals", "images", "size", "seed"):
            command += [f"--{option}", str(getattr(settings, option))]
        if subprocess.run(command, check=False).returncode:
            raise FedCXRError(f"the synthetic hospitals could not be written to {data}")
    return data


def _conclude(run: Path) -> None:
    """Print a summary of the rounds, and the paths of the results."""
    initial = next(event for event in read_events(run) if isinstance(event, InitialModel))
    print("\n  round   test AUC   hospitals   seconds")
    print(f"  start   {number(initial.test.auc):>8}")
    for record in read_rounds(run):
        test = number(record.test.auc if record.test else None)
        print(
            f"  {record.round:>5}   {test:>8}   {len(record.hospitals):>9}   "
            f"{record.seconds.total:>7.1f}"
        )
    print(f"\nThe model: {run / 'final.pt'}; every number of every round: {run / 'rounds.jsonl'}")


if __name__ == "__main__":
    sys.exit(run_command("demo", _demo))
