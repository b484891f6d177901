"""Whether pretraining learns anything: linear evaluation on real films, against random weights.

``python -m benchmarks.pretrain_evidence --films DIR --lists DIR --out DIR`` makes shards of the
films, pretrains with each method (or with ``--methods`` alone) and seed on all train_val images
without their labels, fits a logistic regression for each finding on the frozen features of the
train_val images, and scores it on the official test images. That is done again with features of
unit length, so that their direction alone tells, and cross-validated in each of the two sets alone.

Two baselines have random weights of the same seeds: as they are, and with BatchNorm's statistics
taken from the images, which the pretrained ones have too. A third is no network, but the film as
8 x 8 pixels.

It goes on where it was cut. What is run on a GPU and what on a CPU stands in the two profiles.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.preprocessing import normalize
from torch import nn

from common.data.shard import Bytes, Shard, open_shard
from common.images import centre_crops, to_device
from common.initial import initial_state
from common.metrics import auc_by_finding, mean_auc
from common.model import build_model, load_state, to_input
from pretrain.networks import take_backbone
from pretrain.probe import Features, knn_auc, linear_evaluation, pooled_features

SEEDS = (0, 1, 2)


class Profile(NamedTuple):
    """What a machine can do in an hour.

    Attributes:
        size: Pixels of the shards.
        jobs: Pretrainings at once.
        common: Options of every method.
        runs: Further options of each.
    """

    size: int
    jobs: int
    common: list[str]
    runs: dict[str, list[str]]


# The queue is smaller than the shard, and the followers fast enough for so few steps.
MOCO = ["--queue", "1024", "--ema", "0.99"]
CPU_PROFILE = Profile(
    size=96,
    jobs=2,
    common=[
        *("--batch-size", "64", "--image-size", "64", "--lr", "0.2"),
        *("--precision", "bf16", "--threads", "1"),
    ],
    runs={
        "mocov2": ["--epochs", "120", *MOCO],
        "simclr": ["--epochs", "40", "--temperature", "0.2"],
        "byol": ["--epochs", "80", "--ema", "0.96"],
        "rotation": ["--epochs", "15"],
    },
)
GPU_PROFILE = Profile(
    size=256,
    jobs=1,
    common=["--batch-size", "128", "--lr", "0.1"],
    runs={
        "mocov2": ["--epochs", "160", *MOCO],
        "simclr": ["--epochs", "120", "--temperature", "0.2"],
        "byol": ["--epochs", "100"],
        "rotation": ["--epochs", "50"],
    },
)
Run = dict[str, Any]
"""What is told of one backbone."""

RESAMPLES = 200
BASELINES = ("random", "random, statistics")
PIXELS = "8 x 8 pixels"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def command(*arguments: object) -> None:
    """Run one of the project's commands; its output goes to the terminal."""
    name, *rest = map(str, arguments)
    module = {"flower-data": "common.data.cli", "flower-pretrain": "pretrain.cli"}[name]
    subprocess.run([sys.executable, "-c", f"from {module} import main; main()", *rest], check=True)


def make_shards(
    films: Path, lists: Path, size: int, out: Path, parts: int = 1
) -> tuple[list[Shard], Shard]:
    """Return the train_val images, in parts without a common patient, and the test images."""
    if not out.exists():
        command(
            *("flower-data", "chestxray14", "--images", films / "images"),
            *("--metadata", films / "labels.csv", "--train-list", lists / "train_val_list.txt"),
            *("--test-list", lists / "test_list.txt", "--hospitals", parts, "--partition", "iid"),
            *("--group-by", "patient", "--size", size, "--allow-missing", "--out", out),
        )
    shards = [open_shard(out / f"hospital-{part:02}") for part in range(parts)]
    return shards, open_shard(out / "test")


def pretrain(profile: Profile, method: str, seed: int, shard: Shard, out: Path) -> Path:
    """Pretrain, or go on with it, or find it done; return the checkpoint."""
    checkpoint = out / f"{method}-{seed}.pt"
    command(
        *("flower-pretrain", "--data", shard.path, "--method", method, "--out", checkpoint),
        *("--seed", seed, "--resume", *profile.common, *profile.runs[method]),
    )
    return checkpoint


def backbone_of(init: str, seed: int) -> nn.Module:
    """Return the backbone that a federation would start from."""
    state, _ = initial_state(init, "densenet121", seed)
    model = build_model("densenet121", seed)
    load_state(model, state)
    backbone: nn.Module = take_backbone(model)[0]
    return backbone.to(DEVICE).eval()


def with_statistics(backbone: nn.Module, shard: Shard) -> nn.Module:
    """Let BatchNorm take its running statistics from the images."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over the batches
    backbone.train()
    with torch.inference_mode():
        for start in range(0, len(shard), 64):
            backbone(to_input(to_device(centre_crops(shard.images[start : start + 64]), DEVICE)))
    backbone.eval()
    return backbone


def evaluate(of_images: Callable[[Bytes], Features], train: Shard, test: Shard) -> Run:
    """Return all measures of the features that a function makes of images."""
    features, of_tests = of_images(train.images), of_images(test.images)
    labels = test.labelled()
    linear = linear_evaluation(features, train, of_tests, labels)
    unit = linear_evaluation(normalize(features), train, normalize(of_tests), labels)
    alone = linear_evaluation(of_tests, test, of_tests, labels)
    return {
        "auc": mean_auc(linear.auc_by_finding),
        "unit_auc": mean_auc(unit.auc_by_finding),
        "inside_auc": linear.inside_auc,
        "unit_inside_auc": unit.inside_auc,
        "knn_auc": knn_auc(features, train),
        "alone_auc": alone.inside_auc,
        "alone_knn_auc": knn_auc(of_tests, test),
        "auc_by_finding": linear.auc_by_finding,
        "scores": {"auc": linear.scores, "unit_auc": unit.scores},
    }


def thumbnails(images: Bytes) -> Features:
    """Return images as 8 x 8 pixels: float32, N x 64; S is to be a multiple of 8."""
    side = images.shape[-1] // 8
    means: Features = images.reshape(-1, 8, side, 8, side).mean(axis=(2, 4), dtype=np.float32)
    return means.reshape(-1, 64)


def noise_of_gain(runs: list[Run], baseline: list[Run], test: Shard, measure: str) -> float:
    """Return a gain's standard error from the choice of test films: a bootstrap over patients."""
    patients = np.array([entry.patient for entry in test.entries])
    films = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    draws = np.random.default_rng(0)

    def auc(runs: list[Run], rows: npt.NDArray[np.intp]) -> float:
        labels = test.labelled()[rows]
        return statistics.mean(
            mean_auc(auc_by_finding(labels, run["scores"][measure][rows])) or 0 for run in runs
        )

    gains = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([films[i] for i in draws.integers(len(films), size=len(films))])
        gains.append(auc(runs, rows) - auc(baseline, rows))
    return statistics.stdev(gains)


MEASURES = {
    "auc": "linear evaluation: fitted on the train_val films, scored on the test films",
    "unit_auc": "the same, features of unit length",
    "inside_auc": "linear evaluation on the train_val films, cross-validated by patient",
    "unit_inside_auc": "the same, features of unit length",
    "knn_auc": "k-NN on the train_val films, cross-validated by patient",
    "alone_auc": "linear evaluation on the test films alone, cross-validated by patient",
    "alone_knn_auc": "k-NN on the test films alone, cross-validated by patient",
}


def table(results: dict[str, list[Run]], measure: str) -> str:
    """Return a measure's means, spreads and gains over both baselines, as text."""
    aucs = {name: [run[measure] for run in runs] for name, runs in results.items()}
    spreads = {name: max(values) - min(values) for name, values in aucs.items()}

    def gain(name: str, baseline: str) -> str:
        found = statistics.mean(aucs[name]) - statistics.mean(aucs[baseline])
        clear = found > max(spreads[name], spreads[baseline])
        return "" if name == baseline else f"{found:+.3f}{'*' if clear else ' '}"

    head = f"{'':20}{'AUC':>6}{'spread':>8}{'seeds':>23}"
    lines = [MEASURES[measure], head + f"{'gain over random':>18}{'with statistics':>17}"]
    for name, values in aucs.items():
        seeds = "  ".join(f"{auc:.3f}" for auc in values)
        lines.append(
            f"{name:20}{statistics.mean(values):>6.3f}{spreads[name]:>8.3f}{seeds:>23}"
            f"{gain(name, BASELINES[0]):>18}{gain(name, BASELINES[1]):>17}".rstrip()
        )
    return "\n".join(lines)


def command_line(description: str) -> argparse.ArgumentParser:
    """Return a parser of what every run on the films needs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--films", type=Path, required=True, help="images/ and labels.csv")
    parser.add_argument("--lists", type=Path, required=True, help="the official split")
    parser.add_argument("--out", type=Path, required=True, help="shards, checkpoints, results")
    return parser


def main() -> None:
    """Run everything that is not done yet, and print the table."""
    parser = command_line(__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=CPU_PROFILE.runs, default=CPU_PROFILE.runs)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    profile = GPU_PROFILE if DEVICE.type == "cuda" else CPU_PROFILE
    (train,), test = make_shards(arguments.films, arguments.lists, profile.size, out / "shards")
    with ThreadPoolExecutor(profile.jobs) as pool:
        jobs = {
            (method, seed): pool.submit(pretrain, profile, method, seed, train, out)
            for method in arguments.methods
            for seed in SEEDS
        }
        checkpoints = {run: job.result() for run, job in jobs.items()}
    results: dict[str, list[Run]] = {PIXELS: [evaluate(thumbnails, train, test)]}
    for seed in SEEDS:
        random = {
            BASELINES[0]: backbone_of("random", seed),
            BASELINES[1]: with_statistics(backbone_of("random", seed), train),
        }
        own = {name: backbone_of(str(checkpoints[name, seed]), seed) for name in arguments.methods}
        for name, backbone in (random | own).items():
            of_images = partial(pooled_features, backbone, device=DEVICE)
            results.setdefault(name, []).append(evaluate(of_images, train, test))
    (out / "results.json").write_text(json.dumps(results, default=np.ndarray.tolist) + "\n")
    print(
        f"{len(train)} images to pretrain and fit on, {len(test)} to test on, {profile.size} pixels"
    )
    for measure in MEASURES:
        print("\n" + table(results, measure))
    print("\nspread: largest less smallest seed; *: a gain larger than both spreads")
    print("standard errors of the gains, from the choice of test films:")
    for name in arguments.methods:
        for measure in ("auc", "unit_auc"):
            noise = noise_of_gain(results[name], results[BASELINES[0]], test, measure)
            print(f"{name:20}{noise:>6.3f}   {MEASURES[measure]}")


if __name__ == "__main__":
    main()
