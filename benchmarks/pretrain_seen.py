"""The gain of pretraining on films that were not used for pretraining.

``python -m benchmarks.pretrain_seen --films DIR --lists DIR --out DIR`` splits the train_val films
into two halves by patient and pretrains with SimCLR on each half. For each seed, one backbone has
then seen a film and the other has not, with the same films and tasks for both. Each AUC is over
pairs of films of the same source.

The command resumes where it stopped. It is for a CPU: a seed takes half an hour on two cores with
bf16, and an hour or more without.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean

from torch import nn

from benchmarks.films import Films, command_line, make_shards
from benchmarks.pretrain_evidence import (
    CPU_PROFILE,
    SEEDS,
    Run,
    backbone_of,
    evaluate,
    network_features,
    pretrain,
)

METHOD = "simclr"
PROFILE = CPU_PROFILE._replace(
    # The number of steps of 40 epochs on all films.
    runs={METHOD: ["--epochs", "80", "--lr", "2", "--temperature", "0.2"]}
)


def both_ways(backbone: nn.Module, seen: Films, unseen: Films, test: Films) -> Run:
    """Return AUCs over pairs of the same source, by ``fitted on -> scored on``.

    AUCs are cross-validated by patient if both are the same films.
    """
    of_films = partial(network_features, backbone)
    aucs: Run = {}
    ways = {("seen", "unseen"): (seen, unseen), ("unseen", "seen"): (unseen, seen)}
    for (fit, rest), (own, other) in ways.items():
        found = evaluate(of_films, own, other)
        aucs[f"{fit} -> {fit}"] = found["inside_within_auc"]
        aucs[f"{fit} -> {rest}"] = found["within_auc"]
        aucs[f"{fit} -> test"] = evaluate(of_films, own, test)["within_auc"]
    return aucs


def main() -> None:
    """Run everything that is not done yet, and print the table."""
    parser = command_line(__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    arguments = parser.parse_args()
    out: Path = arguments.out
    halves, test = make_shards(
        arguments.films, arguments.lists, PROFILE.size, out / "shards", parts=2
    )
    results: dict[str, list[Run]] = {"random": [], METHOD: []}
    for seed in arguments.seeds:
        with ThreadPoolExecutor(PROFILE.jobs) as pool:
            folders = [out / "half-0", out / "half-1"]
            shards = [half.shard for half in halves]
            checkpoints = pool.map(partial(pretrain, PROFILE, METHOD, seed), shards, folders)
        for checkpoint, seen, unseen in zip(checkpoints, halves, halves[::-1], strict=True):
            for name, init in (("random", "random"), (METHOD, str(checkpoint))):
                aucs = both_ways(backbone_of(init, seed), seen, unseen, test)
                results[name].append(aucs)
    (out / "results.json").write_text(json.dumps(results) + "\n")
    sizes = [len(half.shard) for half in halves]
    print(f"{sizes} images in the halves, {len(test.shard)} to test on")
    head = f"{'fitted on -> scored on':24}{'random':>8}{METHOD:>8}{'gain':>8}"
    print(head + "   of each seed's two backbones")
    for measure in results["random"][0]:
        before, after = ([run[measure] for run in results[name]] for name in ("random", METHOD))
        gains = [b - a for a, b in zip(before, after, strict=True)]
        means = f"{mean(before):8.3f}{mean(after):8.3f}{mean(gains):+8.3f}"
        print(f"{measure:24}{means}   {'  '.join(f'{gain:+.3f}' for gain in gains)}")


if __name__ == "__main__":
    main()
