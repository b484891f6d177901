"""How long until 95 % of the final AUC, over lines of 1, 10 and 100 Mbit/s, on each wire?

    python -m benchmarks.lines --shards SHARDS --trials RESULTS --out OUT

SHARDS has the ten hospitals of the scale small under table 2 (ROOT/data/spread of
``flower-experiments``), RESULTS its ``trials.jsonl``. Needs root, iproute2 and /dev/net/tun.

1. Ten hospitals train a DenseNet-121 for two rounds in this process, one after the other; their
   changes are kept, and the seconds of the slowest.
2. The real server and clients exchange models over the lines, for two rounds. Each hospital has a
   line of its own, with 100 ms there and back; the server's has no limit. No film is scored or
   trained on: clients add the changes that were kept. Plain Flower sends the weights in fp32 there
   and back. Neither has a warm-up.
3. Rounds until 95 % of the AUC that fp32 ends at on the same seed are read off the trials.

Only the first round's model goes out in fp32, so with R rounds it takes the first round's exchange,
R - 1 times the second's, and R times the training.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, get_args

import torch

from benchmarks.replay import make_changes
from benchmarks.wire import SEED, TRAINING
from common.options import Wire
from experiments.launch.processes import Process
from experiments.paper.cells import FirstModel, TrialLine
from experiments.paper.grid import read_trials
from experiments.paper.rates import trials_at_chosen_rate
from experiments.paper.report_curves import first_to_reach
from experiments.paper.results import curve_of
from server.rounds.ask import TRANSFERS
from server.run.records import read_rounds
from tests.support.faults import FaultyFederation
from tests.support.hosts import Hosts
from tests.support.waiting import wait_until

HOSPITALS = 10
ROUND_TRIP = 0.1
SHARE = 0.95
MODELS: tuple[FirstModel, ...] = ("random", "mocov2")
FLOWER = "plain Flower"
RATES = (1, 10, 100)
"""Mbit/s. At the first one hospital is measured: ten would take an hour."""


class Exchange(NamedTuple):
    """Seconds of a round without training: of the first one, and of a later one."""

    first: float
    later: float


def ours(wire: Wire, rate: int, shards: list[Path], changes: Path, folder: Path) -> Exchange:
    """Return what the exchange takes; ``shards`` are those of the hospitals that take part."""
    run, rounds = folder / "run", 1 if wire == "fp32" else 2
    options = {
        "init": "random", "run": run, "rounds": 2, "min-clients": len(shards), "seed": SEED,
        "quorum": len(shards), "lr": TRAINING.lr, "batch-size": TRAINING.batch_size,
        "image-size": 72, "threads": 1, "wire": wire,
    }  # fmt: skip
    with (
        Hosts(1 + len(shards)) as hosts,
        FaultyFederation(folder / "logs", hosts=hosts) as federation,
    ):
        for host in hosts[1:]:
            host.spoil(ROUND_TRIP, 0, rate)
        federation.start_server([t for k, v in options.items() for t in (f"--{k}", str(v))])
        for shard in shards:
            federation.preludes[shard.name] = (
                f"from benchmarks.replay import replay\nreplay({str(changes)!r})\n"
            )
            federation.start_client(shard)
        server = federation.server
        assert server is not None  # noqa: S101 - it was started
        wait_until(lambda: len(read_rounds(run)) >= rounds or server.poll() is not None, 3600)
        records = read_rounds(run)[:rounds]  # a server that is stopped may take the last line back
    if len(records) < rounds:
        raise SystemExit(f"{folder}/logs/server.log: the server ended too early")
    # What one hospital cannot show: the server sends to so many at a time, and fetches from so
    # many. The others wait for their turn, of whichever takes longer.
    turns = ceil(HOSPITALS / TRANSFERS) if len(shards) < HOSPITALS else 1
    seconds = [
        record.seconds.total
        + (turns - 1)
        * max(max(h.seconds.receive, h.seconds.send) for h in record.hospitals.values())
        for record in records
    ]
    return Exchange(seconds[0], seconds[-1])


def flowers(rate: int, hospitals: int, folder: Path) -> Exchange:
    """Return what plain Flower's exchange takes, the same in each round."""
    found = folder / "seconds.json"
    folder.mkdir(parents=True)
    with Hosts(1 + hospitals) as hosts:
        for host in hosts[1:]:
            host.spoil(ROUND_TRIP, 0, rate)
        address = f"{hosts[0].address}:8080"
        flower = "import json, pathlib\nfrom benchmarks.federation_overhead import *\n"
        tell = f"lambda seconds: pathlib.Path({str(found)!r}).write_text(json.dumps(seconds))"
        server = f"bare_server({address!r}, {hospitals}, 1, {tell})"
        codes = [server, *[f"bare_client('', {address!r})"] * hospitals]
        log = folder / "log"
        processes = [
            Process(host.enter + flower + code, [], {}, (log, log))
            for host, code in zip(hosts, codes, strict=True)
        ]
        try:
            wait_until(lambda: processes[0].poll() is not None, 3600)
        finally:
            for process in processes:
                process.kill()
    (seconds,) = json.loads(found.read_text())
    return Exchange(seconds, seconds)


def measure(
    rates: Sequence[int], shards: list[Path], changes: Path, out: Path
) -> dict[tuple[int, str], Exchange]:
    """Return the exchange of each wire on each line.

    All that is measured at 1 Mbit/s is so at once, beside what is measured at 10 Mbit/s in turn:
    the processes have next to nothing to do. What is measured at 100 Mbit/s comes alone.
    """
    tasks: dict[tuple[int, str], Callable[[], Exchange]] = {}
    for rate in rates:
        taking_part = shards[:1] if rate == 1 else shards
        for wire in get_args(Wire):
            place = out / f"{rate}-{wire}"
            tasks[rate, wire] = partial(ours, wire, rate, taking_part, changes, place)
        tasks[rate, FLOWER] = partial(flowers, rate, len(taking_part), out / f"{rate}-flower")
    found = {}

    def do(key: tuple[int, str]) -> None:
        found[key] = tasks[key]()
        print(f"{key[0]} Mbit/s, {key[1]}: {found[key]}", flush=True)

    with ThreadPoolExecutor(len(tasks)) as pool:
        slow = [pool.submit(do, key) for key in tasks if key[0] == 1]
        for key in tasks:
            if key[0] == 10:
                do(key)
        for future in slow:
            future.result()
    for key in tasks:
        if key[0] == 100:
            do(key)
    return {key: found[key] for key in tasks}


def rounds_to(lines: Sequence[TrialLine], model: FirstModel, wire: Wire) -> list[int | None]:
    """Return for each seed the first round after which the test AUC is at least SHARE of fp32's.

    None: it never is.
    """
    done = {line.cell: line for line in lines}
    found = []
    for _, exact in sorted(trials_at_chosen_rate(lines, model, "table2").items()):
        line = done.get(exact.cell.model_copy(update={"wire": wire}))
        end = exact.rounds[-1].test_auc
        if line is not None and end is not None:
            point = first_to_reach(curve_of(line).points[1:], SHARE * end)
            found.append(None if point is None else point.round)
    return found


def table(
    exchanges: Mapping[tuple[int, str], Exchange], training: float, lines: Sequence[TrialLine]
) -> list[str]:
    """Return the rows: what was measured, and what it comes to."""
    rows = [
        "| Mbit/s | | first exchange, s | later exchange, s | rounds, random | rounds, MoCo-v2 | "
        "seconds, random | seconds, MoCo-v2 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (rate, name), exchange in exchanges.items():
        counts, sums = [], []
        for model in MODELS:
            wire: Wire = "fp32" if name == FLOWER else name  # type: ignore[assignment]
            rounds = rounds_to(lines, model, wire)
            mark = "" if rounds else "*"
            rounds = rounds or rounds_to(lines, model, "fp32")
            words = ["never" if r is None else str(r) for r in rounds]
            counts.append(f"{', '.join(words)}{mark}" if words else "-")
            known = [r for r in rounds if r is not None]
            if len(known) < len(rounds) or not rounds:
                sums.append("-")
                continue
            mean = fmean(known)
            total = exchange.first + (mean - 1) * exchange.later + mean * training
            sums.append(f"{total:.0f}{mark}")
        cells = [f"{rate}", name, f"{exchange.first:.1f}", f"{exchange.later:.1f}"]
        rows.append(f"| {' | '.join([*cells, *counts, *sums])} |")
    return rows


def main() -> None:
    """Train, measure, and print the table."""
    parser = argparse.ArgumentParser(description="seconds to 95 % of the final AUC over slow lines")
    parser.add_argument("--shards", type=Path, required=True, help="hospital-00 to hospital-09")
    parser.add_argument("--trials", type=Path, required=True, help="folder of trials.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="changes, runs and logs; new")
    parser.add_argument("--rates", type=int, nargs="+", choices=RATES, default=RATES, help="Mbit/s")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shards = sorted(arguments.shards.absolute().glob("hospital-*"))
    out = arguments.out.absolute()
    changes = out / "changes"
    changes.mkdir(parents=True)
    training = make_changes(shards, changes)
    print(f"training: {training:.1f} s a round", flush=True)
    exchanges = measure(arguments.rates, shards, changes, out)
    for row in table(exchanges, training, read_trials(arguments.trials)):
        print(row)


if __name__ == "__main__":
    main()
