"""``flower-containers``: shows and disturbs the containers of a federation on this machine.

``status`` shows them. ``chaos`` causes a fault in one container and repairs it after a while, to
show that the federation survives. Both use Docker's engine.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import docker
from docker.errors import APIError, DockerException
from docker.models.containers import Container
from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict
from rich.console import Console

from common.errors import BadInput
from common.runtime.cli import Command, Settings, choose_command, parse, run_command
from server.watch.drawing import table, text

SERVICE = "com.docker.compose.service"
ONE_OFF = "com.docker.compose.oneoff"
PREFIX = "FLOWER_CONTAINERS_"

PIPE_COLUMNS = 240
"""Where there is no terminal that has a width, nothing is cut off."""


class StatusSettings(Settings):
    """Show the containers of a federation."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, cli_prog_name="flower-containers status")

    project: str = Field("fedcxr", description="name of the Compose project")


class ChaosSettings(Settings):
    """Disturb one of the containers for a while."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, cli_prog_name="flower-containers chaos")

    name: CliPositionalArg[str] = Field(description="service, such as hospital-03")
    fault: CliPositionalArg[Literal["kill", "pause", "disconnect"]] = Field(
        description="kill: kill its process, restart it later; pause: freeze it; "
        "disconnect: remove its network"
    )
    seconds: float = Field(30, ge=0, description="duration of the fault")
    project: str = Field("fedcxr", description="name of the Compose project")


def containers_of(engine: docker.DockerClient, project: str) -> dict[str, Container]:
    """Return a project's containers by service, including those that have ended.

    Those of ``docker compose run`` are left out: they are beside a service's own.

    Raises:
        BadInput: The project has no containers.
    """
    label = f"com.docker.compose.project={project}"
    everything = engine.containers.list(all=True, filters={"label": label})
    found = [each for each in everything if each.labels.get(ONE_OFF) != "True"]
    if not found:
        raise BadInput(f"no container of the project {project}; start it with docker compose up")
    return {each.labels[SERVICE]: each for each in sorted(found, key=lambda c: c.labels[SERVICE])}


def row(container: Container) -> dict[str, str]:
    """Return a container's row in the table of ``status``."""
    state = container.attrs["State"]
    health = state.get("Health", {})
    last = (health.get("Log") or [{}])[-1].get("Output", "").strip()
    running = state["Status"] == "running"
    code = f" ({state['ExitCode']})" if state["Status"] == "exited" else ""
    return {
        "container": container.labels[SERVICE],
        "state": state["Status"] + code,
        "health": health.get("Status", "-") if running else "-",
        "restarts": str(container.attrs["RestartCount"]),
        "GPU": _gpus(container.attrs["HostConfig"].get("DeviceRequests") or []),
        "memory": _memory(container) if running else "-",
        "doing": last.splitlines()[-1] if running and last else "-",
    }


@contextmanager
def disturbed(engine: docker.DockerClient, container: Container, fault: str) -> Iterator[None]:
    """Cause a fault in a running container; repair it at the end of the block."""
    links = container.attrs["NetworkSettings"]["Networks"] if fault == "disconnect" else {}
    networks = [(engine.networks.get(name), link["Aliases"]) for name, link in links.items()]
    try:
        if fault == "kill":
            container.kill()
        elif fault == "pause":
            container.pause()
        for network, _ in networks:
            network.disconnect(container)
        yield
    finally:
        if fault == "kill":
            container.start()
        elif fault == "pause":
            container.unpause()
        for network, aliases in networks:
            network.connect(container, aliases=aliases)


@contextmanager
def _engine() -> Iterator[docker.DockerClient]:
    """Yield a client of Docker's engine, configured by environment variables.

    Raises:
        BadInput: The engine cannot be reached or refuses a request.
    """
    try:
        yield docker.from_env()
    except APIError as error:
        raise BadInput(f"Docker's engine: {str(error).splitlines()[0]}") from None
    except DockerException as error:
        reason = str(error).splitlines()[0]
        remedy = "check that it runs, and DOCKER_HOST"
        if "PermissionError" in reason:
            remedy = "use sudo, or be in the group docker"
        raise BadInput(f"Docker's engine: {reason}; {remedy}") from None


def _gpus(requests: list[dict[str, Any]]) -> str:
    ids = [gpu for request in requests for gpu in request.get("DeviceIDs") or []]
    counts = [request["Count"] for request in requests if request.get("Count")]
    return ",".join(ids) or ",".join("all" if count < 0 else str(count) for count in counts) or "-"


def _memory(container: Container) -> str:
    stats: Any = container.stats(stream=False, one_shot=True)
    used = stats["memory_stats"]
    if "usage" not in used:
        return "-"
    # As in docker stats: without the kernel's file cache.
    files = used["stats"].get("inactive_file", used["stats"].get("total_inactive_file", 0))
    return f"{(used['usage'] - files) / 2**20:.0f} of {used['limit'] / 2**20:.0f} MiB"


def _status(arguments: Sequence[str]) -> None:
    settings = parse(StatusSettings, arguments)
    with _engine() as engine:
        containers = containers_of(engine, settings.project)
        rows = [row(container) for container in containers.values()]
        console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)
        cells = [[text(cell) for cell in each.values()] for each in rows]
        console.print(table(list(rows[0]), cells))


def _chaos(arguments: Sequence[str]) -> None:
    settings = parse(ChaosSettings, arguments)
    with _engine() as engine:
        containers = containers_of(engine, settings.project)
        container = containers.get(settings.name)
        if container is None:
            raise BadInput(
                f"{settings.name}: no such container; give one of {', '.join(containers)}"
            )
        if container.status != "running":
            raise BadInput(f"{settings.name}: is {container.status}; it must be running")
        with disturbed(engine, container, settings.fault):
            print(f"{settings.name}: {settings.fault}, for {settings.seconds:g} s", flush=True)
            time.sleep(settings.seconds)
        print(f"{settings.name}: repaired")


COMMANDS = {
    "status": Command("show each container: health, restarts, memory, current activity", _status),
    "chaos": Command("kill, pause or disconnect a hospital for a while", _chaos),
}


def _choose(arguments: Sequence[str]) -> None:
    summary = "Shows and disturbs the containers of a federation on this machine."
    choose_command("flower-containers", summary, COMMANDS, arguments)


def main() -> None:
    """Run ``flower-containers`` and exit with its code."""
    sys.exit(run_command("flower-containers", _choose))
