"""Whether pretraining learns anything: linear evaluation on real films, against random weights.

``python -m benchmarks.pretrain_evidence --films DIR --lists DIR --out DIR`` makes shards of the
films, pretrains with each method and seed on all train_val images without their labels, fits a
logistic regression for each finding on the frozen features of the train_val images, and scores it
on the official test images. Two baselines have random weights of the same seeds: as they are, and
with BatchNorm's statistics taken from the images, which the pretrained ones have too.

It goes on where it was cut. Options of each method stand in RUNS.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn

from common.data.shard import Shard, open_shard
from common.images import centre_crops, to_device
from common.initial import initial_state
from common.metrics import AucByFinding, mean_auc
from common.model import build_model, load_state, to_input
from pretrain.networks import take_backbone
from pretrain.probe import knn_auc, linear_evaluation, pooled_features

SEEDS = (0, 1, 2)
SIZE = 64
COMMON = [
    *("--preset", "cxr", "--batch-size", "64", "--image-size", "40"),
    *("--lr", "0.2", "--precision", "bf16"),
]
RUNS = {
    "mocov2": ["--epochs", "28", "--queue", "1024", "--ema", "0.99"],
    "simclr": ["--epochs", "22", "--temperature", "0.2"],
    "byol": ["--epochs", "16"],
    "rotation": ["--epochs", "9"],
}
BASELINES = ("random", "random, statistics")
CPU = torch.device("cpu")


def command(*arguments: object) -> None:
    """Run one of the project's commands on one thread; its output goes to the terminal."""
    name, *rest = map(str, arguments)
    module = {"flower-data": "common.data.cli", "flower-pretrain": "pretrain.cli"}[name]
    subprocess.run(
        [sys.executable, "-c", f"from {module} import main; main()", *rest],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )


def make_shards(films: Path, lists: Path, out: Path) -> tuple[Shard, Shard]:
    """Return the train_val images and the official test images."""
    if not out.exists():
        command(
            *("flower-data", "chestxray14", "--images", films / "images"),
            *("--metadata", films / "labels.csv", "--train-list", lists / "train_val_list.txt"),
            *("--test-list", lists / "test_list.txt", "--hospitals", 1, "--partition", "iid"),
            *("--size", SIZE, "--allow-missing", "--out", out),
        )
    return open_shard(out / "hospital-00"), open_shard(out / "test")


def pretrain(method: str, seed: int, shard: Shard, out: Path) -> Path:
    """Pretrain, or go on with it, or find it done; return the checkpoint."""
    checkpoint = out / f"{method}-{seed}.pt"
    command(
        *("flower-pretrain", "--data", shard.path, "--method", method, "--out", checkpoint),
        *("--seed", seed, "--threads", 1, "--resume", *COMMON, *RUNS[method]),
    )
    return checkpoint


def backbone_of(init: str, seed: int) -> nn.Module:
    """Return the backbone that a federation would start from."""
    state, _ = initial_state(init, "densenet121", seed)
    model = build_model("densenet121", seed)
    load_state(model, state)
    backbone: nn.Module = take_backbone(model)[0]
    return backbone.eval()


def with_statistics(backbone: nn.Module, shard: Shard) -> nn.Module:
    """Let BatchNorm take its running statistics from the images."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over the batches
    backbone.train()
    with torch.inference_mode():
        for start in range(0, len(shard), 64):
            backbone(to_input(to_device(centre_crops(shard.images[start : start + 64]), CPU)))
    backbone.eval()
    return backbone


def evaluate(backbone: nn.Module, train: Shard, test: Shard) -> dict[str, object]:
    """Return linear evaluation on the test images and k-NN on the others."""
    features = pooled_features(backbone, train.images, CPU)
    of_tests = pooled_features(backbone, test.images, CPU)
    by_finding: AucByFinding = linear_evaluation(features, train, of_tests, test.labelled())
    return {
        "auc": mean_auc(by_finding),
        "knn_auc": knn_auc(features, train),
        "auc_by_finding": by_finding,
    }


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Return means, spreads and gains over both baselines, as text."""
    aucs = {name: [run["auc"] for run in runs] for name, runs in results.items()}
    spreads = {name: max(values) - min(values) for name, values in aucs.items()}

    def gain(name: str, baseline: str) -> str:
        found = statistics.mean(aucs[name]) - statistics.mean(aucs[baseline])
        clear = found > max(spreads[name], spreads[baseline])
        return "" if name == baseline else f"{found:+.3f}{'*' if clear else ' '}"

    head = f"{'':20}{'linear AUC':>10}{'spread':>8}{'seeds':>23}{'k-NN AUC':>10}"
    lines = [head + f"{'gain over random':>18}{'with statistics':>17}"]
    for name, runs in results.items():
        knn = statistics.mean(run["knn_auc"] for run in runs)
        seeds = "  ".join(f"{auc:.3f}" for auc in aucs[name])
        lines.append(
            f"{name:20}{statistics.mean(aucs[name]):>10.3f}{spreads[name]:>8.3f}{seeds:>23}"
            f"{knn:>10.3f}{gain(name, BASELINES[0]):>18}{gain(name, BASELINES[1]):>17}"
        )
    note = "spread: largest less smallest seed; *: a gain larger than both spreads"
    return "\n".join([*lines, note])


def main() -> None:
    """Run everything that is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--films", type=Path, required=True, help="images/ and labels.csv")
    parser.add_argument("--lists", type=Path, required=True, help="the official split")
    parser.add_argument("--out", type=Path, required=True, help="shards, checkpoints, results")
    parser.add_argument("--jobs", type=int, default=2, help="pretrainings at once")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    train, test = make_shards(arguments.films, arguments.lists, out / "shards")
    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = {
            (method, seed): pool.submit(pretrain, method, seed, train, out)
            for seed in SEEDS
            for method in RUNS
        }
        checkpoints = {run: job.result() for run, job in jobs.items()}
    results: dict[str, list[dict[str, float]]] = {}
    for seed in SEEDS:
        random = {
            BASELINES[0]: backbone_of("random", seed),
            BASELINES[1]: with_statistics(backbone_of("random", seed), train),
        }
        own = {name: backbone_of(str(checkpoints[name, seed]), seed) for name in RUNS}
        for name, backbone in (random | own).items():
            results.setdefault(name, []).append(evaluate(backbone, train, test))  # type: ignore[arg-type]
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"{len(train)} images to pretrain and fit on, {len(test)} to test on, {SIZE} pixels")
    print(table(results))


if __name__ == "__main__":
    main()
