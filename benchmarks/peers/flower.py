"""Flower: its simulation engine and its deployment engine, with one app for both."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.peers.task import Settings, folder
from experiments.launch.local import free_port

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "peers"
version = "1.0.0"
description = "One federation"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "fedcxr"
[tool.flwr.app.components]
serverapp = "app:server"
clientapp = "app:client"
[tool.flwr.app.config]
"""

APP = """
from benchmarks.peers import flower_app
client = flower_app.client
server = flower_app.server
"""

CONNECTION = """
[superlink]
default = "here"
[superlink.here]
address = "127.0.0.1:{port}"
insecure = true
"""

START_SECONDS = 60.0


def simulate(settings: Settings) -> int:
    """Run the app on the simulation engine; return the exit code of ``flwr run``."""
    port = _superlink("--simulation")
    # A film's training uses one core, as everywhere here; Flower's default is two.
    backend = f"num-supernodes={settings.hospitals} client-resources-num-cpus=1"
    return _run_app(port, "--federation-config", backend)


def deploy(settings: Settings) -> int:
    """Run the app on a SuperLink and a SuperNode for each hospital; return the same."""
    port = _superlink()
    for number in range(settings.hospitals):
        config = f"partition-id={number} num-partitions={settings.hospitals}"
        arguments = ["--insecure", "--superlink", f"127.0.0.1:{port}", "--node-config", config]
        _start(f"supernode-{number}", "flower-supernode", *arguments, "--port", str(free_port()))
    return _run_app(port)


def _superlink(*more: str) -> int:
    port = free_port()
    arguments = ["--insecure", "--host", "127.0.0.1", "--port", str(port), *more]
    _start("superlink", "flower-superlink", *arguments, "--disable-runtime-dependency-installation")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return port
        time.sleep(0.1)
    raise TimeoutError(f"no SuperLink within {START_SECONDS:.0f} s")


def _run_app(port: int, *more: str) -> int:
    app, home = folder() / "app", Path(os.environ["FLWR_HOME"])
    app.mkdir()
    (app / "pyproject.toml").write_text(PROJECT)
    (app / "app.py").write_text(APP)
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(CONNECTION.format(port=port))
    return _start("run", "flwr", "run", str(app), "here", *more, "--stream").wait()


def _start(name: str, command: str, *arguments: str) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name(command)
    with (folder() / f"{name}.log").open("ab") as log:
        return subprocess.Popen([program, *arguments], stdout=log, stderr=log)
