"""A hospital with nothing but its kit, an image and a folder of films."""

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import docker
import numpy as np
import pytest
from PIL import Image

from experiments.compose.containers import containers_of
from experiments.compose.simulation import OWNER
from experiments.launch.local import LocalFederation, free_port
from server.provision.federation import Config, new
from tests.support.federations import lines_of, log_of, options
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
PROJECT = f"fedcxr-site-{os.getpid()}"

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


def write_films(folder: Path, count: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["Image Index,Finding Labels,Patient ID"]
    for number in range(count):
        pixels = rng.integers(0, 256, (80, 80), np.uint8)
        Image.fromarray(pixels).save(folder / f"IM{number:04d}.png")
        lines.append(f"IM{number:04d}.png,{'Effusion' if number % 3 else 'No Finding'},{number}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def test_a_kit_makes_a_shard_and_takes_part(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    engine = docker.from_env()
    subprocess.run(["docker", "compose", "build", "hospital-00"], cwd=ROOT, check=True)
    lan = engine.networks.create(f"{PROJECT}-lan")
    request.addfinalizer(lan.remove)
    lan.reload()
    gateway = lan.attrs["IPAM"]["Config"][0]["Gateway"]  # this machine, as containers reach it
    keys, run = tmp_path / "keys", tmp_path / "run"
    config = Config(hosts=[gateway], port=free_port(), days=2, image_size=64)
    new(keys, config, ["north"], datetime.now(UTC))
    kit, films, data = keys / "sites" / "north", tmp_path / "films", tmp_path / "data"
    write_films(films, 40)
    data.mkdir()
    own = {"FILMS=/srv/films": f"FILMS={films}", "DATA=/srv/fedcxr": f"DATA={data}"}
    settings = (kit / ".env").read_text()
    for line, here in own.items():
        settings = settings.replace(line, here)
    (kit / ".env").write_text(settings)
    engine.images.get("fedcxr-client").tag(config.image)
    for path in (data, *kit.iterdir()):
        os.chown(path, OWNER, OWNER)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)  # pytest's own, into which the container has to see

    verify = ("verify", "/state/audit.jsonl")

    def compose(*arguments: str) -> None:
        command = ["docker", "compose", "--project-name", PROJECT, *arguments]
        subprocess.run(command, cwd=kit, check=True)

    with LocalFederation(tmp_path / "logs", tls=keys) as federation:
        port = json.loads((keys / "provision.json").read_text())["port"]
        federation.address = f"{gateway}:{port}"
        try:
            made = ("site", "--images", "/films", "--labels", "/films/labels.csv")
            compose("run", "--rm", "shard", *made, "--out", "/data/shard")
            compose("run", "--rm", "shard", "check", "/data/shard")
            federation.start_server(options(run, 1, rounds=2, image_size=64))
            wait_until(lambda: "listening" in log_of(federation, "server"))
            compose("run", "--rm", "client", "check")
            compose("up", "-d")
            assert federation.server is not None
            assert federation.server.wait(120) == 0
            client = containers_of(engine, PROJECT)["client"]
            assert client.status == "running"  # it waits for the next run
            assert client.attrs["Config"]["User"] == str(OWNER)
            compose("run", "--rm", "--entrypoint", "flower-audit", "client", *verify)
            client.stop(timeout=10)
            client.reload()
            assert client.attrs["State"]["ExitCode"] == 143
        finally:
            compose("down", "--volumes")
    assert [list(line["hospitals"]) for line in lines_of(run)] == [["north"]] * 2
    assert (data / "shard.private.json").stat().st_mode & 0o777 == 0o600
