"""Rounds per minute with one slow hospital: waiting for it, and ending rounds without it.

Five client processes and one server on loopback, densenet-tiny, shards of synthetic films. The
first hospital trains ten times slower than it would: after its training it sleeps nine times as
long, so that it takes no time from the others on a machine with few cores. The same federation runs
twice, one after the other: rounds of all replies, and rounds that end with all but one
(--rounds-end 4):

    python -m benchmarks.semi_synchronous
"""

import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.films import command
from experiments.launch.local import LocalFederation
from experiments.launch.processes import Process
from server.run.records import RoundRecord, read_rounds

HOSPITALS = 5
SLOW = "hospital-00"
ROUNDS = {0: 6, HOSPITALS - 1: 60}
"""Of each run, by its --rounds-end: enough for the slow hospital to count a few times."""

SLOWER = """
import time
from unittest.mock import patch
from client.training import train
def slowly(*arguments, **named):
    start = time.monotonic()
    loss = train(*arguments, **named)
    time.sleep(9 * (time.monotonic() - start))
    return loss
patch("client.computing.train", slowly).start()
"""


class Uneven(LocalFederation):
    """A federation with one slow hospital."""

    def _start(self, name: str, code: str, arguments: list[str], log: Path | None) -> Process:
        prelude = SLOWER if name == SLOW else ""
        return super()._start(name, prelude + code, arguments, log)


def rounds_of(shards: list[Path], folder: Path, end: int) -> list[RoundRecord]:
    """Return the rounds of one run; the first one, in which processes warm up, is left out."""
    options: dict[str, object] = {"init": "random", "architecture": "densenet-tiny"}
    options |= {"run": folder / "run", "rounds": ROUNDS[end], "min-clients": HOSPITALS}
    options |= {"image-size": 64, "batch-size": 16, "rounds-end": end}
    with Uneven(folder / "logs", slots=HOSPITALS) as federation:
        federation.start_server([t for k, v in options.items() for t in (f"--{k}", str(v))])
        for shard in shards:
            federation.start_client(shard)
        if any(federation.wait().values()):
            sys.exit((federation.logs / "server.log").read_text()[-2000:])
    return read_rounds(folder / "run")[1:]


def main() -> None:
    """Measure both in turn, and print the table."""
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}\n")
    print("| a round ends with | rounds per minute | median s | slow hospital counted | behind |")
    print("|---|---|---|---|---|")
    rates = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command(
            *("flower-data", "synthetic", "--hospitals", HOSPITALS, "--images", 200),
            *("--size", 64, "--out", folder / "data"),
        )
        shards = sorted((folder / "data").glob("hospital-*"))
        for end in ROUNDS:
            records = rounds_of(shards, folder / str(end), end)
            seconds = [record.seconds.total for record in records]
            slow = [r.hospitals[SLOW].stale for r in records if SLOW in r.hospitals]
            behind = f"{statistics.mean(slow):.1f} rounds" if slow else "-"
            rates.append(60 * len(seconds) / sum(seconds))
            print(
                f"| {end or HOSPITALS} of {HOSPITALS} replies | {rates[-1]:.1f} "
                f"| {statistics.median(seconds):.2f} | {len(slow)} of {len(records)} rounds "
                f"| {behind} |",
                flush=True,
            )
    print(f"\nratio {rates[1] / rates[0]:.1f}")


if __name__ == "__main__":
    main()
