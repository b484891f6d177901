"""What a shard costs a client as it grows; a part of :mod:`benchmarks.growth`.

Shards of random bytes, memory-mapped as always, in a folder that is removed afterwards. Measured is
all that a client does with them but the network's own work. Memory is what the process holds beyond
what it held before, without mapped files: their pages are the kernel's to take back.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import TypeVar

import numpy as np
import torch

from benchmarks.growth_weights import Cost
from benchmarks.instructions import to_train
from client.batches import batches
from client.examples import split_of, to_train_on
from client.policy import Policy
from common.findings import FINDINGS
from common.options import Training
from common.protocol import Greeting
from common.shard import Entry, create_shard, open_for_training

BLOCK = 1000
"""Films that are written at once."""

T = TypeVar("T")

STATUS = Path("/proc/self/status")


def make_shard(path: Path, films: int, size: int) -> None:
    """Write a shard of random bytes, with three films of each patient."""
    rng = np.random.default_rng(0)
    entries = [Entry(f"{i:06d}.png", f"{i // 3:06d}", "") for i in range(films)]
    labels = rng.integers(0, 2, (films, len(FINDINGS)), np.uint8)
    block = rng.integers(0, 256, (BLOCK, size, size), np.uint8)
    with create_shard(
        path, entries=entries, labels=labels, size=size, source="random bytes"
    ) as images:
        for first in range(0, films, BLOCK):
            images[first : first + BLOCK] = block[: films - first]


def costs_of(path: Path) -> dict[str, Cost]:
    """Return what a client's work with a shard costs; needs its own process."""
    torch.set_num_threads(1)
    before = _anonymous()
    policy, training = Policy(), Training()
    greeting = Greeting(run="growth", seed=0, training=training)
    instruction = to_train(training)
    shard, start = _cost(lambda: open_for_training(path))
    (indices, _), split = _cost(lambda: split_of(shard, greeting, policy))
    (own, chosen), choice = _cost(
        lambda: to_train_on(shard, indices, instruction, policy, "hospital")
    )

    def epoch() -> None:
        rng = np.random.default_rng(0)
        for _ in batches(own, chosen, training, rng, torch.device("cpu")):
            pass

    _, reading = _cost(epoch)
    both = Cost(split.seconds + choice.seconds, max(split.memory, choice.memory))
    costs = {"start of a client": start, "split": both, "epoch's batches": reading}
    return {work: Cost(cost.seconds, cost.memory - before) for work, cost in costs.items()}


def _cost(work: Callable[[], T]) -> tuple[T, Cost]:
    peak, done = [_anonymous()], Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak.append(_anonymous())

    watcher = Thread(target=watch)
    watcher.start()
    start = monotonic()
    try:
        result = work()
    finally:
        seconds = monotonic() - start
        done.set()
        watcher.join()
    return result, Cost(seconds, max(*peak, _anonymous()))


def _anonymous() -> int:
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
