"""What ``flower-containers`` sees of containers, and does to them, on a real engine."""

import os
from collections.abc import Iterator

import docker
import pytest
from docker.models.containers import Container
from docker.models.networks import Network

from experiments.compose.containers import containers_of, disturbed
from tests.support.commands import assert_one_line, run
from tests.support.waiting import wait_until

PROJECT = f"fedcxr-chaos-{os.getpid()}"
IMAGE = "python:3.11-slim-bookworm"
HEALTHY = {"test": ["CMD", "echo", "connected, round 3"], "interval": 10**9}

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


@pytest.fixture
def engine() -> docker.DockerClient:
    return docker.from_env()


@pytest.fixture
def network(engine: docker.DockerClient) -> Iterator[Network]:
    network = engine.networks.create(f"{PROJECT}-net", internal=True)
    yield network
    network.remove()


@pytest.fixture
def container(engine: docker.DockerClient, network: Network) -> Iterator[Container]:
    labels = {
        "com.docker.compose.project": PROJECT,
        "com.docker.compose.service": "hospital-07",
    }
    container = engine.containers.create(
        IMAGE,
        ["python", "-c", "import time; time.sleep(600)"],
        labels=labels,
        network=str(network.name),
        healthcheck=HEALTHY,
        mem_limit="64m",
    )
    container.start()
    yield container
    container.remove(force=True)


def now(container: Container) -> Container:
    container.reload()
    return container


def test_a_container_is_shown_with_what_it_says_of_itself(container: Container) -> None:
    def health() -> str:
        return str(now(container).attrs["State"]["Health"]["Status"])

    wait_until(lambda: health() == "healthy")
    result = run("flower-containers", "status", "--project", PROJECT)
    assert result.returncode == 0, result.stderr
    heading, row = result.stdout.splitlines()
    assert heading.split()[0] == "container"
    assert row.split()[:4] == ["hospital-07", "running", "healthy", "0"]
    assert " of 64 MiB" in row
    assert row.endswith("connected, round 3")


@pytest.mark.parametrize(
    ("fault", "status"), [("kill", "exited"), ("pause", "paused"), ("disconnect", "running")]
)
def test_what_is_disturbed_is_mended(
    engine: docker.DockerClient, network: Network, container: Container, fault: str, status: str
) -> None:
    name = str(network.name)

    def address() -> str:
        links = now(container).attrs["NetworkSettings"]["Networks"]
        return str(links[name]["IPAddress"]) if name in links else ""

    with disturbed(engine, containers_of(engine, PROJECT)["hospital-07"], fault):
        assert now(container).status == status
        assert bool(address()) == (fault == "pause")
    assert now(container).status == "running"
    assert address()


def test_a_mistake_is_one_line(container: Container) -> None:
    container.reload()
    other = run("flower-containers", "chaos", "hospital-77", "kill", "--project", PROJECT)
    assert_one_line(other, 2, "hospital-77: no such container; give one of hospital-07")
    container.stop(timeout=0)
    ended = run("flower-containers", "chaos", "hospital-07", "kill", "--project", PROJECT)
    assert_one_line(ended, 2, "hospital-07: is exited")
    nobody = run("flower-containers", "status", "--project", f"{PROJECT}-x")
    assert_one_line(nobody, 2, "start it with docker compose up")
