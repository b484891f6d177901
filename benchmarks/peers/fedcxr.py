"""FedCXR: ``flower-server`` and a ``flower-client`` for each hospital, as processes over gRPC."""

import os
import subprocess
import sys

from benchmarks.peers.task import Settings, folder, name_of
from experiments.launch.local import free_port

SERVER = "from server.cli import main; main()"
CLIENT = """
from unittest.mock import patch
from benchmarks.peers import task
def train(model, shard, indices, instruction, site, *_):
    return task.train(model, site)
patch("client.computing.train", train).start()
from client.cli import main
main()
"""


def run(settings: Settings) -> int:
    """Run the federation; return the server's exit code."""
    run_folder, address = folder(), f"127.0.0.1:{free_port()}"
    options: dict[str, object] = {"init": "random", "run": run_folder / "run", "listen": address}
    options |= {"rounds": settings.rounds, "min-clients": settings.hospitals}
    options |= {"local-epochs": settings.epochs, "batch-size": settings.batch}
    options |= {"image-size": settings.size, "threads": 1}
    server = _start("server", SERVER, ["--insecure", *_words(options)])
    clients = []
    for number in range(settings.hospitals):
        name = name_of(number)
        options = {"server": address, "data": settings.data / name, "threads": 1}
        options |= {"slots": os.cpu_count() or 1, "slots-dir": run_folder / "slots"}
        clients.append(_start(name, CLIENT, ["--insecure", *_words(options)]))
    code = server.wait()
    for client in clients:
        client.wait()
    return code


def _words(options: dict[str, object]) -> list[str]:
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


def _start(name: str, code: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    with (folder() / f"{name}.log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=log, stderr=log)
