"""Does a hospital that trains in bf16 end at the same AUC as in fp32, and how much faster is it?

    python -m benchmarks.client_precision DATA [SEEDS] [EPOCHS]

DATA is the folder ``data`` of ``flower-experiments``: the hospitals' films in one shard train, by
the client's own code, from the same random weights in both precisions; the test films score.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.instructions import RUN, to_train
from client.hospital import Hospital
from common.evaluation import evaluate
from common.model import build_model, load_state, state_of
from common.options import Precision, Training
from common.protocol import Greeting
from common.shard import open_for_training, open_shard
from common.state import State, spec_of
from common.wire import pack, unpack

TRAINING = Training(lr=0.05, batch_size=32)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
CPU = torch.device("cpu")


def train(data: Path, seed: int, epochs: int, precision: Precision) -> tuple[State, float]:
    """Return the weights after some epochs, and images per second."""
    hospital = Hospital("union", open_for_training(data / "union"), CPU, precision=precision)
    hospital.greet(Greeting(run=RUN, seed=seed))
    state = state_of(build_model("densenet121", seed))
    images, seconds = 0, 0.0
    for number in range(1, epochs + 1):
        instruction = to_train(TRAINING, number, seed)
        reply, blob = hospital.answer(instruction, pack(state))
        state = unpack(blob, spec_of(state))
        images += reply.examples
        seconds += reply.seconds.train
    return state, images / seconds


def main() -> None:
    """Print the AUC and the rate of each precision and seed."""
    data = Path(sys.argv[1])
    seeds, epochs = (int(text) for text in [*sys.argv[2:], "3", "5"][:2])
    torch.set_num_threads(1)
    test = open_shard(data / "test")
    model = build_model("densenet121")
    aucs: dict[Precision, list[float]] = {precision: [] for precision in PRECISIONS}
    print(f"{epochs} epochs, one thread, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    print("seed  precision  test AUC  images/s", flush=True)
    for seed in range(seeds):
        for precision in PRECISIONS:
            state, rate = train(data, seed, epochs, precision)
            load_state(model, state)
            auc = evaluate(model, test, np.arange(len(test)), CPU).auc
            assert auc is not None  # noqa: S101 - the test films have findings
            aucs[precision].append(auc)
            print(f"{seed:>4}  {precision:>9}  {auc:>8.4f}  {rate:>8.0f}", flush=True)
    apart = [b - a for a, b in zip(aucs["fp32"], aucs["bf16"], strict=True)]
    print(
        f"bf16 - fp32: mean {statistics.mean(apart):+.4f}, by seed", *(f"{d:+.4f}" for d in apart)
    )
    print(f"spread of fp32 over seeds (standard deviation): {statistics.stdev(aucs['fp32']):.4f}")


if __name__ == "__main__":
    main()
