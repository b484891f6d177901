"""How much of a round in linear mode is saved where the frozen backbone scores films only once?

    python -m benchmarks.frozen_features DATA [ROUNDS]

DATA is the folder ``data`` of ``flower-experiments``. One hospital of its IID shards answers the
same instructions twice, and the test films are scored after each round, with the features kept and
with the backbone run anew; the two take turns. The logits must be the same.
"""

import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.instructions import RUN, to_train
from client.hospital import Hospital
from common.evaluation import predict
from common.frozen import FrozenFeatures
from common.model import build_model, load_state, state_of
from common.options import Training
from common.protocol import Greeting, Instruction
from common.shard import Shard, open_for_training, open_shard
from common.state import State, select
from common.wire import fingerprint, pack

CPU = torch.device("cpu")
HOSPITALS = 10


def instruction(number: int) -> Instruction:
    """Return what a hospital is to do in a round."""
    return to_train(Training(mode="linear", batch_size=32), number)


def parts_of_a_round(
    hospital: Hospital, features: FrozenFeatures, test: Shard, state: State, number: int
) -> tuple[float, float, torch.Tensor]:
    """Return the seconds of a hospital's answer and of scoring the test films, and the logits."""
    start = time.perf_counter()
    hospital.answer(instruction(number), pack(state))
    answered = time.perf_counter()
    model = build_model("densenet121")
    load_state(model, state)
    began = time.perf_counter()
    backbone = fingerprint(pack(select(state, "backbone")))
    logits = features.predict(model, test, np.arange(len(test)), CPU, backbone)
    return answered - start, time.perf_counter() - began, logits


def main() -> None:
    """Print the seconds of both ways and their ratio."""
    data, rounds = Path(sys.argv[1]), int([*sys.argv[2:], "3"][0])
    torch.set_num_threads(1)
    test = open_shard(data / "test")
    shard = open_for_training(data / "iid" / "hospital-00")
    state = state_of(build_model("densenet121", 0))

    def hospital() -> Hospital:
        made = Hospital("hospital-00", shard, CPU)
        made.greet(Greeting(run=RUN, seed=0))
        return made

    keeps, kept, forgets = hospital(), FrozenFeatures(), hospital()
    for one in (keeps, forgets):
        parts_of_a_round(one, kept, test, state, 1)
    seconds: dict[str, list[float]] = {"anew": [], "kept": []}
    scoring: dict[str, list[float]] = {"anew": [], "kept": []}
    for number in range(2, rounds + 2):
        for way in ("anew", "kept") if number % 2 else ("kept", "anew"):
            forgets._computing._features = FrozenFeatures()
            who, features = (keeps, kept) if way == "kept" else (forgets, FrozenFeatures())
            answer, scored, logits = parts_of_a_round(who, features, test, state, number)
            seconds[way].append(HOSPITALS * answer + scored)
            scoring[way].append(scored)
            if number == 2 and way == "kept":
                model = build_model("densenet121")
                load_state(model, state)
                same = torch.equal(logits, predict(model, test, np.arange(len(test)), CPU))
                print("logits are the same:", same)
    for what, of in (("scoring the test films", scoring), ("a round of ten hospitals", seconds)):
        anew, again = median(of["anew"]), median(of["kept"])
        print(f"{what}: anew {anew:.2f} s, kept {again:.2f} s, ratio {again / anew:.3f}")


if __name__ == "__main__":
    main()
