"""Prepares ten hospitals in containers; see ``docker-compose.yml``.

``python -m experiments.compose.simulation STEP`` runs one step, unless it is done already:

- ``folders`` gives the folders on the host to the containers' user
- ``data`` and ``keys`` make synthetic hospitals and keys
- ``pretrain`` pretrains the first model, unless ``INIT`` names another one
"""

import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from common.errors import BadInput
from common.runtime.cli import Command, Settings, choose_command, parse, run_command
from common.runtime.files import sha256_of, write_json
from common.shard import MANIFEST

FEDERATION, HOSPITALS, RUNS = Path("/federation"), Path("/hospitals"), Path("/runs")
"""Mount points of the host's folders."""

FILMS, CHECKPOINTS = Path("/films"), Path("/checkpoint")
"""Mount points of the films and of the first model for pretraining."""

KEYS = FEDERATION / "keys"
OWNER = 10001
"""User id of the containers."""

NAMES = [f"hospital-{number:02d}" for number in range(10)]
LABELLED = [*NAMES, "test"]
"""Shards that a run needs."""

SYNTHETIC = "synthetic.json"
"""File next to synthetic films with their settings."""


class SimulationSettings(Settings):
    """Prepare the federation of ``docker-compose.yml``."""

    model_config = SettingsConfigDict(env_prefix="SIMULATION_", cli_prog_name="simulation")

    images: int = Field(128, ge=16, description="mean number of a synthetic hospital's images")
    size: int = Field(64, ge=40, description="pixels along each side of a synthetic image")
    seed: int = Field(0, ge=0, description="decides every draw of the synthetic images")
    init: str = Field(
        "random", description="initial model of the run; pretrained if it is in /checkpoint"
    )


def own_folders(hospitals: Path, federation: Path, runs: Path) -> None:
    """Make the containers' user the owner of the folders that containers write; needs root.

    Args:
        hospitals: Folder of the shards; unchanged if it is not empty.
        federation: Folder for the keys.
        runs: Folder for the server's runs and the hospitals' states.
    """
    states = [runs / "sites" / name for name in NAMES]
    for state in states:
        state.mkdir(parents=True, exist_ok=True)
    empty = [] if any(hospitals.iterdir()) else [hospitals]
    for folder in [federation, runs, runs / "sites", *states, *empty]:
        os.chown(folder, OWNER, OWNER)


def make_hospitals(folder: Path, settings: SimulationSettings) -> None:
    """Write synthetic shards into a folder, unless it already has hospitals.

    Args:
        folder: An existing folder; it is mounted, so it cannot be renamed.
        settings: Number, size and seed of the images.

    Raises:
        BadInput: The folder cannot be written, some hospitals are missing, or its synthetic
            hospitals were made with other settings.
    """
    from radiographs.sources import synthetic

    fresh, note = folder / "synthetic", folder / SYNTHETIC
    options = settings.model_dump(include={"images", "size", "seed"})
    missing = [name for name in LABELLED if not _is_shard(folder / name)]
    if fresh.exists() or missing != LABELLED:
        _check_settings(note, options)
    if not fresh.exists():
        if not missing:
            print("the hospitals exist already")
            return
        if missing != LABELLED:
            raise BadInput(
                f"{', '.join(missing)}: no shard in HOSPITALS_DIR, which needs ten hospitals and "
                "test, each made by flower-data; an empty folder is filled with synthetic ones"
            )
        _note_settings(note, options)
        given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        synthetic.command(["--out", str(fresh), "--hospitals", str(len(NAMES)), *given])
    for shard in sorted(fresh.iterdir()):
        shard.rename(folder / shard.name)
    fresh.rmdir()


def _is_shard(folder: Path) -> bool:
    try:
        return (folder / MANIFEST).is_file()
    except PermissionError:
        raise BadInput(f"{folder}: the user {OWNER} may not read it; give it permission") from None


def _note_settings(note: Path, options: dict[str, int]) -> None:
    try:
        write_json(note, options)
    except OSError as error:
        raise BadInput(
            f"HOSPITALS_DIR has no hospitals and cannot be written: {error.strerror}; name another "
            f"folder, or give this one to the user {OWNER}"
        ) from None


def _check_settings(note: Path, options: dict[str, int]) -> None:
    """Refuse settings that differ from those of a folder's films, if these are known."""
    made = json.loads(note.read_bytes()) if note.exists() else options
    for name, value in options.items():
        if made[name] != value:
            raise BadInput(
                f"SYNTHETIC_{name.upper()} is {value}, but the films in HOSPITALS_DIR were made "
                f"with {made[name]}; set it back, name another HOSPITALS_DIR, or remove this one"
            )


def make_keys(folder: Path) -> None:
    """Provision the server and the hospitals, unless it is done already.

    Raises:
        BadInput: The folder cannot be written.
    """
    from server.provision.federation import Config, new

    if folder.exists():
        print(f"the keys in {folder} exist already")
        return
    new(folder, Config(hosts=["server"], port=8080, days=365), NAMES, datetime.now(UTC))
    print(f"{folder}: a key for each of {len(NAMES)} hospitals")


def _folders(_arguments: Sequence[str]) -> None:
    own_folders(HOSPITALS, FEDERATION, RUNS)


def _data(arguments: Sequence[str]) -> None:
    make_hospitals(HOSPITALS, parse(SimulationSettings, arguments))


def _keys(_arguments: Sequence[str]) -> None:
    make_keys(KEYS)


def films_to_pretrain_on(folder: Path, checkpoint: Path) -> Path:
    """Return the shard ``pretrain`` in a folder, or the folder itself if it is a shard.

    Args:
        folder: PRETRAIN_DIR or HOSPITALS_DIR.
        checkpoint: The checkpoint to pretrain, perhaps begun already.

    Raises:
        BadInput: There is no shard, or the checkpoint was begun with other films.
    """
    shard = next((path for path in (folder / "pretrain", folder) if _is_shard(path)), None)
    if shard is None:
        raise BadInput(
            "no films to pretrain on: PRETRAIN_DIR is not a shard, and neither it nor "
            "HOSPITALS_DIR has a shard pretrain; name one made by flower-data, or give INIT"
        )
    begun = checkpoint.with_suffix(".run") / "config.json"
    if begun.exists() and json.loads(begun.read_bytes())["data"] != sha256_of(shard / MANIFEST):
        raise BadInput(
            f"{checkpoint.name} was begun with other films than PRETRAIN_DIR or HOSPITALS_DIR has "
            "now; set the former again, or remove it with docker compose down --volumes"
        )
    return shard


def is_pretrained(checkpoint: Path) -> bool:
    """Return whether a pretraining is finished."""
    status = checkpoint.with_suffix(".run") / "status.json"
    return status.exists() and json.loads(status.read_bytes())["state"] == "finished"


def _pretrain(arguments: Sequence[str]) -> None:
    init = parse(SimulationSettings, arguments).init
    if Path(init).parent != CHECKPOINTS:
        print(f"the first model is {init}: no pretraining needed")
        return
    shard = films_to_pretrain_on(FILMS, Path(init))
    if is_pretrained(Path(init)):
        print(f"{init} exists already")
        return
    sys.stdout.flush()
    command = ["flower-pretrain", "--data", str(shard), "--out", init]
    os.execvp(command[0], command)  # noqa: S606 - in the container


COMMANDS = {
    "folders": Command("give the host's folders to the containers' user; needs root", _folders),
    "data": Command("write synthetic hospitals, unless hospitals exist", _data),
    "keys": Command("make certificates and keys, unless they exist", _keys),
    "pretrain": Command("pretrain the first model, unless INIT names another one", _pretrain),
}


def _choose(arguments: Sequence[str]) -> None:
    summary = "Prepares the federation of docker-compose.yml."
    choose_command("simulation", summary, COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(run_command("simulation", _choose))
