"""How many bytes does an update take on each wire, how far off is it, and how long does it take?

    python -m benchmarks.wire --films FILMS --lists LISTS --out OUT

Three hospitals train a DenseNet-121 for one round on real films. Up: their updates. Down: the
change of the model after that round. Encoding and decoding are timed beside packing, in turns.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
import zstandard

from benchmarks.films import command_line, make_shards
from benchmarks.instructions import RUN, to_train
from client.hospital import Hospital
from common.codec.change import received, sent
from common.model import build_model, state_of
from common.options import Training, Wire
from common.protocol import Greeting
from common.seeds import generator
from common.shard import open_for_training
from common.state import State, parameters_of, spec_of
from common.wire import pack, unpack
from server.strategies.base import weighted_mean

SEED = 1
HOSPITALS = 3
SIZE = 74  # of which the crop is 64 pixels
TURNS = 7
TRAINING = Training(lr=0.05, batch_size=32)


class Update(NamedTuple):
    """A hospital's weights after one round, its films, and its seconds of scoring and training."""

    state: State
    films: int
    seconds: float


def updates_of(shards: list[Path], state: State, number: int = 1) -> list[Update]:
    """Return what each hospital makes of a state in a round."""
    updates = []
    instruction = to_train(TRAINING, number, SEED)
    for path in shards:
        device = torch.device("cpu")
        hospital = Hospital(path.name, open_for_training(path), device, precision=None)
        hospital.greet(Greeting(run=RUN, seed=SEED))
        reply, blob = hospital.answer(instruction, pack(state))
        print(f"{path.name}: {reply.examples} films, {reply.seconds.train:.0f} s", flush=True)
        seconds = reply.seconds.evaluate + reply.seconds.train
        updates.append(Update(unpack(blob, spec_of(state)), reply.examples, seconds))
    return updates


def error_of(before: State, after: State, arrived: State) -> float:
    """Return the length of what is missing of a change, as a share of the change's."""
    missing = change = 0.0
    for name, array in parameters_of(after).items():
        missing += float(np.sum((arrived[name].astype(np.float64) - array) ** 2))
        change += float(np.sum((array.astype(np.float64) - before[name]) ** 2))
    return float((missing / change) ** 0.5)


def seconds_of(tasks: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of each task; all take turns."""
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(TURNS):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in taken.items()}


def row(wire: Wire, before: State, updates: list[Update]) -> str:
    """Return a wire's row of the table."""
    spec = spec_of(before)
    blobs, arrived = [], []
    for i, (after, films, _) in enumerate(updates):
        up = sent(before, after, {}, wire, generator(SEED, "wire", 1, str(i)))
        blobs.append(up.blob)
        arrived.append((up.state, films))
    mean = weighted_mean(before, arrived)
    down = sent(before, mean, {}, wire, generator(SEED, "wire", 2))
    after, blob = updates[0].state, blobs[0]
    whole = len(pack(after))
    plain = len(blob if wire == "fp32" else zstandard.ZstdDecompressor().decompress(blob))
    rng = generator(SEED, "wire", 3)
    packed = pack(after)
    seconds = seconds_of(
        {
            "pack": lambda: pack(after),
            "encode": lambda: sent(before, after, {}, wire, rng),
            "unpack": lambda: unpack(packed, spec),
            "decode": lambda: received(blob, before, spec, wire),
        }
    )
    size = statistics.mean(len(each) for each in blobs)
    return (
        f"| {wire} | {size / 1e6:.2f} | {len(down.blob) / 1e6:.2f} | {size / whole:.1%} | "
        f"{plain / 1e6:.2f} | {error_of(before, after, arrived[0][0]):.3f} | "
        f"{error_of(before, mean, down.state):.3f} | {seconds['encode'] / seconds['pack']:.1f} | "
        f"{seconds['decode'] / seconds['unpack']:.1f} |"
    )


def main() -> None:
    """Train, and print a row for each wire."""
    arguments = command_line("bytes of an update on each wire").parse_args()
    torch.set_num_threads(1)
    make_shards(arguments.films, arguments.lists, SIZE, arguments.out, HOSPITALS)
    shards = [arguments.out / f"hospital-{part:02}" for part in range(HOSPITALS)]
    before = state_of(build_model("densenet121", SEED))
    updates = updates_of(shards, before)
    packing = seconds_of({"pack": lambda: pack(before)})["pack"]
    print(f"packing a model takes {1000 * packing:.0f} ms")
    print("| wire | MB up | MB down | up of fp32 | MB up without zstd | error up | error down | "
          "encode / pack | decode / unpack |")  # fmt: skip
    for wire in get_args(Wire):
        print(row(wire, before, updates), flush=True)


if __name__ == "__main__":
    main()
