"""The server's memory for ten and for a hundred hospitals.

A real ``flower-server`` with a DenseNet-121 runs two rounds with ten hospitals, and again with a
hundred. The hospitals are threads of one process, each with its own gRPC connection, and return the
received weights. The result is the peak of the server's resident memory:

    python -m benchmarks.server_memory [HOSPITALS ...]
"""

import multiprocessing
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.federation_overhead import EchoHospital
from common.options import Architecture
from experiments.launch.local import LocalFederation
from server.run.records import read_rounds

ROUNDS = 2
COUNTS = (10, 100)
PART = 250
"""Hospitals of one process, at most."""

SPAWN = multiprocessing.get_context("spawn")


def hospitals(address: str, numbers: range, kind: type[EchoHospital] = EchoHospital) -> None:
    """Take part as these hospitals; runs in a separate process."""
    from client.state import ClientState
    from client.transport.connection import take_part
    from client.transport.messages import MessageHandler

    def run(number: int) -> None:
        hospital = kind(f"hospital-{number:04d}")
        handler = MessageHandler(hospital, ClientState(None))  # type: ignore[arg-type]
        take_part(handler, address, None, patience=300)

    threads = [threading.Thread(target=run, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def peak_of(
    count: int,
    architecture: Architecture = "densenet121",
    rounds: int = ROUNDS,
    kind: type[EchoHospital] = EchoHospital,
    flags: Sequence[str] = (),
) -> tuple[int, float]:
    """Return the server's peak resident memory in bytes, and the seconds of its fastest round.

    Args:
        count: Of hospitals.
        architecture: Of the model.
        rounds: To run.
        kind: Of the hospitals.
        flags: Of the server, besides.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        with LocalFederation(Path(folder) / "logs") as federation:
            options = {"init": "random", "run": run, "rounds": rounds, "min-clients": count}
            options |= {"image-size": 64, "threads": 1, "quorum": 1, "architecture": architecture}
            words = [t for k, v in options.items() for t in (f"--{k}", str(v))]
            federation.start_server([*words, *flags])
            assert federation.server is not None  # noqa: S101 - it was just started
            parts = [range(first, min(first + PART, count)) for first in range(0, count, PART)]
            clients = [
                SPAWN.Process(target=hospitals, args=(federation.address, part, kind))
                for part in parts
            ]
            os.environ["MALLOC_MMAP_THRESHOLD_"] = "1000000"  # otherwise its threads keep 18 GB
            for client in clients:
                client.start()
            del os.environ["MALLOC_MMAP_THRESHOLD_"]
            peak = 0
            while federation.server.poll() is None:
                if any(client.exitcode for client in clients):
                    sys.exit("the hospitals have ended early; a hundred of them take 9 GB")
                peak = max(peak, _high_water(federation.server.pid))
                time.sleep(0.05)
            for client in clients:
                client.join()
            if federation.server.poll():
                sys.exit((federation.logs / "server.log").read_text()[-2000:])
        return peak, min(record.seconds.total for record in read_rounds(run))


def _high_water(pid: int) -> int:
    """Return a process's peak resident memory so far, in bytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def main() -> None:
    """Measure, and print the table."""
    counts = [int(text) for text in sys.argv[1:]] or list(COUNTS)
    print(f"Python {platform.python_version()}, flwr {version('flwr')}, grpcio {version('grpcio')}")
    print("hospitals   peak MB   ratio   s / round")
    first = 0
    for count in counts:
        peak, seconds = peak_of(count)
        first = first or peak
        print(f"{count:>9}{peak / 1e6:>10.0f}{peak / first:>8.2f}{seconds:>12.1f}", flush=True)


if __name__ == "__main__":
    main()
