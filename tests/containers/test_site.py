"""A hospital with nothing but its kit, an image and a folder of films."""

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import docker
import pytest

from experiments.compose.containers import containers_of
from experiments.compose.simulation import OWNER
from experiments.launch.local import LocalFederation, free_port
from server.provision.federation import Config, new
from tests.support.federations import lines_of, log_of, options
from tests.support.kits import UnpackedKit
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
PROJECT = f"fedcxr-site-{os.getpid()}"

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


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
    kit = UnpackedKit(keys / "sites" / "north", tmp_path / "north", PROJECT)
    engine.images.get("fedcxr-client").tag(config.image)
    kit.own()
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)  # pytest's own, into which the container has to see
    verify = ("verify", "/state/audit.jsonl")

    with LocalFederation(tmp_path / "logs", tls=keys) as federation:
        port = json.loads((keys / "provision.json").read_text())["port"]
        federation.address = f"{gateway}:{port}"
        try:
            made = ("site", "--images", "/films", "--labels", "/films/labels.csv")
            kit.compose("run", "--rm", "shard", *made, "--out", "/data/shard")
            kit.compose("run", "--rm", "shard", "check", "/data/shard")
            federation.start_server(options(run, 1, rounds=2, image_size=64))
            wait_until(lambda: "listening" in log_of(federation, "server"))
            kit.compose("run", "--rm", "client", "check")
            kit.compose("up", "-d")
            assert federation.server is not None
            assert federation.server.wait(120) == 0
            client = containers_of(engine, PROJECT)["client"]
            assert client.status == "running"  # it waits for the next run
            assert client.attrs["Config"]["User"] == str(OWNER)
            kit.compose("run", "--rm", "--entrypoint", "flower-audit", "client", *verify)
            client.stop(timeout=10)
            client.reload()
            assert client.attrs["State"]["ExitCode"] == 143
        finally:
            kit.compose("down", "--volumes")
    assert [list(line["hospitals"]) for line in lines_of(run)] == [["north"]] * 2
    assert (kit.data / "shard.private.json").stat().st_mode & 0o777 == 0o600
