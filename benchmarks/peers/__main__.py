"""The same federation in FedCXR, Flower and NVIDIA FLARE: seconds, memory and bytes of a round.

Every stack trains the same DenseNet-121 on the same films with the same code
(:mod:`benchmarks.peers.task`), in fp32, in processes of one thread; nothing else is asked of any of
them: no scoring, no test set. Each runs in namespaces of its own, so that nothing can call out and
the loopback interface counts its bytes alone:

    python -m benchmarks.peers [--films N] [--hospitals N] [--rounds N]

A round is measured from the first hospital's start of training to the first hospital's start in the
next round; the first round is left out, and the last one has no next. Peers are installed into a
temporary folder at their pinned versions. It needs Linux, and the right to make namespaces.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.peers import environment, stage
from benchmarks.peers.task import FOLDER, SETTINGS, Settings, name_of, trainings
from common.findings import FINDINGS
from common.seeds import patient_fraction
from common.shard import VALIDATION_FRACTION, Entry, create_shard

MOST_SECONDS = 1800.0
"""That one stack may take; if it takes longer, its row is of the rounds that were done."""

LEAST_ROUNDS = 3

QUIET = {
    "OMP_NUM_THREADS": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Stack(NamedTuple):
    """One way to run the federation.

    Attributes:
        name: For the table.
        function: ``MODULE FUNCTION`` of this package.
        servers: Parts of the command lines of the server's processes.
        own: See :func:`benchmarks.peers.environment.make`.
        shared: The same; empty as ``own`` is: it runs in this environment.
    """

    name: str
    function: str
    servers: tuple[str, ...]
    own: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


FLWR = f"flwr=={version('flwr')}"
STACKS = (
    Stack("FedCXR, processes over gRPC", "fedcxr run", ("server.cli",)),
    Stack(
        f"Flower {version('flwr')}, simulation engine",
        "flower simulate",
        ("flower-superlink", "flwr-simulation"),
        (FLWR,),
        ("ray",),
    ),
    Stack(
        f"Flower {version('flwr')}, deployment engine",
        "flower deploy",
        ("flower-superlink", "flower-superexec --plugin-type serverapp", "flwr-serverapp"),
        (FLWR,),
        ("ray",),
    ),
    Stack(
        "NVIDIA FLARE 2.9.0, simulator",
        "nvflare run",
        ("benchmarks.peers.nvflare",),
        (),
        ("nvflare",),
    ),
)


def make_films(settings: Settings) -> None:
    """Write a shard of random films for each hospital, none of them for validation."""
    rng = np.random.default_rng(0)
    patients = [f"p{number}" for number in range(2 * settings.films + 20)]
    patients = [name for name in patients if patient_fraction(0, name) >= VALIDATION_FRACTION]
    shape = settings.films, settings.size, settings.size
    for number in range(settings.hospitals):
        entries = [Entry(f"{i}.png", patients[i], "") for i in range(settings.films)]
        labels = rng.integers(0, 2, (settings.films, len(FINDINGS)), np.uint8)
        with create_shard(
            settings.data / name_of(number),
            entries=entries,
            labels=labels,
            size=settings.size,
            source="random bytes",
        ) as images:
            images[:] = rng.integers(0, 256, shape, np.uint8)


def measure(stack: Stack, settings: Settings, folder: Path, python: Path) -> str:
    """Run a stack and return its row."""
    folder.mkdir()
    (folder / SETTINGS).write_text(settings.model_dump_json())
    surroundings = {**os.environ, **QUIET, FOLDER: str(folder), "FLWR_HOME": str(folder / "flwr")}
    surroundings["PYTHONPATH"] = str(environment.ROOT)
    surroundings["PATH"] = f"{python.parent}:{os.environ['PATH']}"
    command = [*stage.NAMESPACES, str(python), "-m", "benchmarks.peers.stage"]
    command += [*stack.function.split(), *stack.servers]
    ended = "not ended"
    with (folder / "stage.log").open("wb") as log, suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            command, env=surroundings, stdout=log, stderr=log, check=False, timeout=MOST_SECONDS
        )
        ended = f"exit code {done.returncode}"
    rounds = trainings(folder)
    if len(rounds) < LEAST_ROUNDS:
        lines = (folder / "stage.log").read_text(errors="replace").strip().splitlines() or [""]
        return f"{ended} after {len(rounds)} rounds: {lines[-1][:120]}"
    firsts = [min(turn, key=lambda each: each.start) for turn in rounds]
    seconds = [after.start - before.start for before, after in pairwise(firsts[1:])]
    cpu = statistics.median(sum(each.cpu for each in turn) for turn in rounds[1:])
    traffic = (firsts[-1].traffic - firsts[1].traffic) / len(seconds)
    peak = stage.Peak.model_validate_json((folder / stage.PEAK).read_bytes())
    middle = statistics.median(seconds)
    return (
        f"{middle:.1f} ({min(seconds):.1f}-{max(seconds):.1f}) | {cpu:.1f} | "
        f"{peak.server / 1e6:.0f} | {peak.everything / 1e6:.0f} | {traffic / 1e6:.0f}"
    )


def main() -> None:
    """Measure every stack in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--films", type=int, default=32, help="of each hospital")
    parser.add_argument("--hospitals", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4, help="at least 3")
    parser.add_argument("--stack", default="", help="only stacks with this in their name")
    parser.add_argument("--keep", type=Path, help="folder for the logs; default: they are removed")
    given = parser.parse_args()
    if given.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds: at least {LEAST_ROUNDS}")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "grpcio"))
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    print(
        f"{versions}; {given.hospitals} hospitals of {given.films} films, {given.rounds} rounds\n"
    )
    print("| | s a round | training, CPU s | server MB | all MB | MB on the wire |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        top = given.keep or Path(temporary)
        settings = Settings(
            hospitals=given.hospitals,
            films=given.films,
            rounds=given.rounds,
            epochs=1,
            batch=16,
            size=64,
            data=top / "data",
        )
        make_films(settings)
        pythons: dict[tuple[str, ...], Path] = {(): Path(sys.executable)}
        for number, stack in enumerate(STACKS):
            if given.stack not in stack.name:
                continue
            try:
                if stack.shared not in pythons:
                    place = Path(temporary) / f"environment-{number}"
                    pythons[stack.shared] = environment.make(
                        place, list(stack.own), list(stack.shared)
                    )
                row = measure(stack, settings, top / str(number), pythons[stack.shared])
            except environment.NotInstalled as why:
                row = f"cannot be installed: {why}"
            print(f"| {stack.name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
