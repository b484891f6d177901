"""docs/deploy.md walked from zero, by its own commands: the server, three hospitals, two runs."""

import os
import re
import shlex
import subprocess
from importlib.metadata import version
from ipaddress import ip_network
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from common.audit import verify
from common.checkpoint import read_checkpoint, write_checkpoint
from common.model import build_model, state_of
from common.provenance import Provenance
from experiments.compose.containers import containers_of
from experiments.compose.simulation import OWNER
from experiments.launch.local import free_port
from tests.support.commands import run
from tests.support.disks import needs_root
from tests.support.doc_commands import commands_in
from tests.support.federations import lines_of, status_of
from tests.support.kits import UnpackedKit
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
NAME = f"fedcxr-walk-{os.getpid()}"
NAMES = ("north", "coast", "west")
QUICK = {"ARCHITECTURE": "densenet-tiny", "IMAGE_SIZE": 64, "BATCH_SIZE": 16, "SEED": 1}

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800), needs_root]


class Page:
    """A section's commands, which must be there and are each run with this test's places.

    Args:
        heading: Of the section.
        places: What a reader replaces, and by what.
    """

    def __init__(self, heading: str, places: dict[str, object]) -> None:
        self.commands = commands_in("deploy.md", heading)
        self.places = places

    def command(self, start: str) -> list[str]:
        """Return the command that begins like this, without ``sudo``."""
        (found,) = (each for each in self.commands if each.startswith(start))
        for theirs, ours in self.places.items():
            found = found.replace(theirs, str(ours))
        return shlex.split(found.removeprefix("sudo "))

    def run(self, start: str, at: Path) -> subprocess.CompletedProcess[str]:
        """Run that command in a folder."""
        command = self.command(start)
        done = subprocess.run(command, cwd=at, check=False, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done


class Server:
    """The server's container, started as the page says."""

    def __init__(self, page: Page, srv: Path) -> None:
        self.page, self.runs = page, srv / "runs"
        self.engine = docker.from_env()

    def start(self, *arguments: str, rounds: int) -> None:
        """Make the container anew, with more arguments than the page's."""
        self.remove()
        *words, image = self.page.command("docker run -d")
        settings = {**QUICK, "ROUNDS": rounds}
        quick = [w for name, v in settings.items() for w in ("-e", f"FLOWER_SERVER_{name}={v}")]
        command = [*words, *quick, *arguments, image]
        subprocess.run(command, check=True, capture_output=True)

    @property
    def container(self) -> Container:
        return self.engine.containers.get(NAME)

    def log(self) -> str:
        return self.container.logs().decode()

    def remove(self) -> None:
        for container in self.engine.containers.list(all=True, filters={"name": f"^/{NAME}$"}):
            print(container.logs(tail=40).decode())  # shown should the test fail
            container.remove(force=True)

    def done(self, name: str = "first") -> int:
        """Return how many rounds of a run are done."""
        folder = self.runs / name
        return len(lines_of(folder)) if (folder / "rounds.jsonl").exists() else 0

    def is_finished(self, name: str) -> bool:
        folder = self.runs / name
        return (folder / "status.json").exists() and status_of(folder)["state"] == "finished"


def restarts(container: Container) -> int:
    """Return how often the engine has started a container again."""
    container.reload()
    return int(container.attrs["RestartCount"])


def test_deploy_md_walked_from_zero(tmp_path: Path) -> None:
    engine, port = docker.from_env(), free_port()
    (addresses,) = engine.networks.get("bridge").attrs["IPAM"]["Config"]
    gateway = addresses.get("Gateway") or str(ip_network(addresses["Subnet"])[1])  # of a new one
    srv, federation = tmp_path / "srv", tmp_path / "federation"
    places = {
        "/srv/fedcxr": srv,
        "--name fedcxr ": f"--name {NAME} ",
        "8080:8080": f"{port}:8080",
        "fed.example.org": f"{gateway} --port {port} --image-size 64",
        "VERSION": version("fedcxr"),
    }
    page = Page("The server", places)
    server = Server(page, srv)
    kits: dict[str, UnpackedKit] = {}
    try:
        page.run("docker compose build", ROOT)
        page.run("docker tag", ROOT)

        def provision(words: list[str]) -> None:
            given = [str(federation) if word == "federation" else word for word in words[1:]]
            result = run("flower-provision", *given)
            assert result.returncode == 0, result.stderr

        def send_the_list() -> None:
            page.run("sudo install -m 644 sites.json", federation / "server")
            page.run("sudo mv", federation / "server")

        provision(page.command("flower-provision new"))
        srv.mkdir()
        subprocess.run(["cp", "-r", federation / "server", srv / "server"], check=True)

        checkpoint, state = srv / "checkpoint.pt", state_of(build_model("densenet-tiny", 1))
        write_checkpoint(checkpoint, state, "densenet-tiny", Provenance(method="random"))
        page.run("sudo install -d", tmp_path)
        page.run("sudo chown", tmp_path)
        elsewhere = checkpoint.rename(srv / "elsewhere.pt")
        server.start(rounds=1000)
        wait_until(lambda: "checkpoint.pt: a folder, not a file, and empty" in server.log())
        server.remove()
        checkpoint.rmdir()  # the engine's
        elsewhere.rename(checkpoint)
        server.start(rounds=1000)

        for name in NAMES:
            kit = UnpackedKit(federation / "sites" / name, tmp_path / name, f"{NAME}-{name}", 24)
            kits[name] = kit
            hospital = Page(
                "A hospital",
                {
                    "/srv/fedcxr": kit.data,
                    "docker compose": f"docker compose --project-name {kit.project}",
                },
            )
            hospital.run("sudo install -d", kit.folder)
            hospital.run("docker compose run --rm shard site", kit.folder)
            hospital.run("docker compose run --rm shard check", kit.folder)
            early = kit.compose("run", "--rm", "client", "check", check=False)
            assert f"the user {OWNER} has to be allowed to: chown it" in early.stdout
            hospital.run("sudo chown", kit.folder)
            wait_until(lambda: "listening" in server.log())
            hospital.run("docker compose run --rm client check", kit.folder)
            assert f"{name} checks its connection" in server.log()
            hospital.run("docker compose up", kit.folder)
        wait_until(lambda: server.done() >= 1, 300)
        first = lines_of(server.runs / "first")[0]
        assert list(first["hospitals"]) == sorted(NAMES)

        # A reboot: all are stopped; those with this policy are started again by the engine.
        clients = {name: containers_of(engine, kit.project)["client"] for name, kit in kits.items()}
        for container in (server.container, *clients.values()):
            assert container.attrs["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
            container.restart(timeout=10)
        before = server.done()
        wait_until(lambda: server.done() > before, 300)
        assert '"resumed"' in (server.runs / "first" / "events.jsonl").read_text()

        provision(page.command("flower-provision revoke"))
        send_the_list()
        said = ["read again, 3 hospitals; revoked: coast", "coast refused: coast was revoked"]
        wait_until(lambda: all(line in server.log() for line in said), 120)
        text = (ROOT / "docs/deploy.md").read_text()
        assert all(line in text for line in said)
        wait_until(lambda: "refused coast: coast was revoked" in clients["coast"].logs().decode())
        wait_until(lambda: restarts(clients["coast"]) >= 2, 120)
        assert server.log().count("coast refused") == 1

        joined = server.log().count("coast joined")
        provision(["flower-provision", "renew", "federation", "coast"])
        send_the_list()
        kits["coast"].own()
        kits["coast"].compose("restart")
        wait_until(lambda: server.log().count("coast joined") > joined, 120)

        server.start(rounds=server.done() + 2)
        wait_until(lambda: server.is_finished("first"), 300)
        (more,) = (each for each in page.commands if each.startswith("-e "))
        server.start(*shlex.split(more), rounds=1)
        wait_until(lambda: server.is_finished("second"), 300)
        (only,) = lines_of(server.runs / "second")
        assert list(only["hospitals"]) == sorted(NAMES)
        _, taken = read_checkpoint(server.runs / "second" / "final.pt", "densenet-tiny", 0)
        assert taken.start is not None
        assert taken.start.method == "fedavg"
        told = b"the run is over; waiting for the next one"
        wait_until(lambda: all(told in client.logs() for client in clients.values()), 120)
        for client in clients.values():
            client.reload()
            assert client.status == "running"

        page.run("sudo tar", tmp_path)
        archive = subprocess.run(
            ["tar", "-tzf", tmp_path / "first.tgz"], check=True, capture_output=True, text=True
        )
        assert "first/final.pt" in archive.stdout
        verified = page.run("docker run --rm -v", tmp_path).stdout
        assert re.search(r"audit\.jsonl: \d+ lines, unbroken, last [0-9a-f]{64}", verified)
        verify(server.runs / "first" / "audit.jsonl")
    finally:
        for kit in kits.values():
            kit.compose("down", "--volumes", check=False)
        server.remove()
