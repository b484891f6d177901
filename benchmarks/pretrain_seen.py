"""Whether pretraining helps on films that it has not seen.

``python -m benchmarks.pretrain_seen --films DIR --lists DIR --out DIR`` cuts the train_val films
in two halves by patient and pretrains with SimCLR on each half alone. Every film is then seen by
one backbone of a seed and unseen by the other, so that what having seen films is worth can be
told from what was learned: the films, and the regressions' tasks, are the same.

It goes on where it was cut. It is for a CPU: half an hour of two cores for each seed.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean

from torch import nn

from benchmarks.pretrain_evidence import (
    CPU_PROFILE,
    DEVICE,
    SEEDS,
    Run,
    backbone_of,
    command_line,
    make_shards,
    pretrain,
)
from common.data.shard import Shard
from common.metrics import mean_auc
from pretrain.probe import knn_auc, linear_evaluation, pooled_features

METHOD = "simclr"
PROFILE = CPU_PROFILE._replace(
    runs={METHOD: ["--epochs", "80", "--temperature", "0.2"]}  # as many steps as 40 on all films
)


def evaluate(backbone: nn.Module, seen: Shard, unseen: Shard, test: Shard) -> Run:
    """Return mean AUCs: ``fitted on -> scored on``, cross-validated by patient where both agree."""
    a, b, c = (pooled_features(backbone, shard.images, DEVICE) for shard in (seen, unseen, test))
    from_seen = linear_evaluation(a, seen, b, unseen.labelled())
    from_unseen = linear_evaluation(b, unseen, a, seen.labelled())
    seen_to_test = linear_evaluation(a, seen, c, test.labelled())
    unseen_to_test = linear_evaluation(b, unseen, c, test.labelled())
    return {
        "seen -> seen": from_seen.inside_auc,
        "unseen -> unseen": from_unseen.inside_auc,
        "seen -> unseen": mean_auc(from_seen.auc_by_finding),
        "unseen -> seen": mean_auc(from_unseen.auc_by_finding),
        "seen -> test": mean_auc(seen_to_test.auc_by_finding),
        "unseen -> test": mean_auc(unseen_to_test.auc_by_finding),
        "k-NN, seen": knn_auc(a, seen),
        "k-NN, unseen": knn_auc(b, unseen),
    }


def main() -> None:
    """Run everything that is not done yet, and print the table."""
    parser = command_line(__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    arguments = parser.parse_args()
    out: Path = arguments.out
    shards = out / "shards"
    halves, test = make_shards(arguments.films, arguments.lists, PROFILE.size, shards, parts=2)
    results: dict[str, list[Run]] = {"random": [], METHOD: []}
    for seed in arguments.seeds:
        with ThreadPoolExecutor(PROFILE.jobs) as pool:
            folders = [out / "half-0", out / "half-1"]
            checkpoints = pool.map(partial(pretrain, PROFILE, METHOD, seed), halves, folders)
        for checkpoint, seen, unseen in zip(checkpoints, halves, halves[::-1], strict=True):
            for name, init in (("random", "random"), (METHOD, str(checkpoint))):
                aucs = evaluate(backbone_of(init, seed), seen, unseen, test)
                results[name].append(aucs)
    (out / "results.json").write_text(json.dumps(results) + "\n")
    print(f"{[len(half) for half in halves]} images in the halves, {len(test)} to test on")
    head = f"{'fitted on -> scored on':24}{'random':>8}{METHOD:>8}{'gain':>8}"
    print(head + "   of each seed's two backbones")
    for measure in results["random"][0]:
        before, after = ([run[measure] for run in results[name]] for name in ("random", METHOD))
        gains = [b - a for a, b in zip(before, after, strict=True)]
        means = f"{mean(before):8.3f}{mean(after):8.3f}{mean(gains):+8.3f}"
        print(f"{measure:24}{means}   {'  '.join(f'{gain:+.3f}' for gain in gains)}")


if __name__ == "__main__":
    main()
