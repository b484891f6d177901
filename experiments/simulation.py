"""What ten hospitals in containers need before they start; see ``docker-compose.yml``.

``python -m experiments.simulation STEP`` does one step, and nothing where it is done already: the
folders on the host get the containers' owner, synthetic hospitals and keys are made where there are
none, the first model is pretrained unless it comes from elsewhere.
"""

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from common.cli import Command, Settings, choose_command, parse, run_command

FEDERATION, HOSPITALS, RUNS = Path("/federation"), Path("/hospitals"), Path("/runs")
"""Where the containers have the folders of the host."""

KEYS = FEDERATION / "keys"
OWNER = 10001
"""The user that the containers run as."""

NAMES = [f"hospital-{number:02d}" for number in range(10)]
PRETRAINED = "/checkpoint/checkpoint.pt"


class SimulationSettings(Settings):
    """Prepare the federation of ``docker-compose.yml``."""

    model_config = SettingsConfigDict(env_prefix="SIMULATION_", cli_prog_name="simulation")

    images: int = Field(128, ge=16, description="mean number of a synthetic hospital's images")
    size: int = Field(64, ge=40, description="pixels along each side of a synthetic image")
    seed: int = Field(0, ge=0, description="decides every draw of the synthetic images")
    init: str = Field(PRETRAINED, description="the run's first model")


def own_folders(hospitals: Path, federation: Path, runs: Path) -> None:
    """Give the folders that containers write to their owner; needs root.

    Args:
        hospitals: Of the shards; left as it is if somebody has put shards there.
        federation: For the keys.
        runs: For the server's runs and the hospitals' states.
    """
    states = [runs / "sites" / name for name in NAMES]
    for state in states:
        state.mkdir(parents=True, exist_ok=True)
    empty = [] if any(hospitals.iterdir()) else [hospitals]
    for folder in [federation, runs, runs / "sites", *states, *empty]:
        os.chown(folder, OWNER, OWNER)


def make_hospitals(folder: Path, settings: SimulationSettings) -> None:
    """Write synthetic shards into a folder, unless there are hospitals in it.

    Args:
        folder: Is there; cannot be renamed, since it is mounted.
        settings: How many images, and which.

    Raises:
        BadInput: It cannot be written.
    """
    from common.data import synthetic

    fresh = folder / "synthetic"
    if not fresh.exists() and any(folder.glob("hospital-*")):
        print(f"{len(list(folder.glob('hospital-*')))} hospitals are there")
        return
    if not fresh.exists():
        options = {"images": settings.images, "size": settings.size, "seed": settings.seed}
        given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        synthetic.command(["--out", str(fresh), "--hospitals", str(len(NAMES)), *given])
    for shard in sorted(fresh.iterdir()):
        shard.rename(folder / shard.name)
    fresh.rmdir()


def make_keys(folder: Path) -> None:
    """Provision the server and the hospitals, unless that is done.

    Raises:
        BadInput: The folder cannot be written.
    """
    from server.provision import Config, new

    if folder.exists():
        print(f"the keys in {folder} are there")
        return
    new(folder, Config(hosts=["server"], port=8080, days=365), NAMES, datetime.now(UTC))
    print(f"{folder}: a key for each of {len(NAMES)} hospitals")


def _folders(_arguments: Sequence[str]) -> None:
    own_folders(HOSPITALS, FEDERATION, RUNS)


def _data(arguments: Sequence[str]) -> None:
    make_hospitals(HOSPITALS, parse(SimulationSettings, arguments))


def _keys(_arguments: Sequence[str]) -> None:
    make_keys(KEYS)


def _pretrain(arguments: Sequence[str]) -> None:
    settings = parse(SimulationSettings, arguments)
    if settings.init != PRETRAINED:
        print(f"the first model is {settings.init}: nothing to pretrain")
        return
    sys.stdout.flush()
    os.execvp("flower-pretrain", ["flower-pretrain"])  # noqa: S606, S607 - in the container


COMMANDS = {
    "folders": Command("give the folders on the host the containers' owner; needs root", _folders),
    "data": Command("write synthetic hospitals, unless there are hospitals", _data),
    "keys": Command("make certificates and keys, unless there are some", _keys),
    "pretrain": Command("pretrain the first model, unless it comes from elsewhere", _pretrain),
}


def _choose(arguments: Sequence[str]) -> None:
    summary = "Prepares the federation of docker-compose.yml."
    choose_command("simulation", summary, COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(run_command("simulation", _choose))
