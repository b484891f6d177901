"""Linear evaluation of pretrained features on real films, compared with random weights.

``python -m benchmarks.pretrain_evidence --films DIR --lists DIR --out DIR`` makes shards of the
films, pretrains with each method (or with ``--methods`` alone) and seed on all train_val images
without their labels, fits a logistic regression for each finding on the frozen features of the
train_val images, and scores it on the official test images. The train_val images are scored too,
cross-validated by patient.

The films come from several sources, which chose them by their findings: a network that
distinguishes the sources has a high AUC. Each AUC is therefore also given over pairs of films of
the same source.

Two baselines have random weights of the same seeds: unchanged, and with BatchNorm's statistics from
the images, as pretrained networks have them. Two more have no network: the film as 8 x 8 pixels,
and only the film's source and view position.

Gains are differences between a method and a baseline with the same seed. Their intervals are for
the seeds alone; the choice of films adds the standard errors that the command prints last.

The command resumes where it stopped. Two profiles have the settings for a CPU and for a GPU.
"""

import json
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import t
from torch import nn

from benchmarks.films import Films, command, command_line, make_shards, thumbnails, within_sources
from common.findings import FINDINGS
from common.images import centre_crops, to_device
from common.initial import initial_state
from common.metrics import auc_by_finding
from common.model import build_model, is_fast_in_bf16, load_state, to_input
from common.scores import mean_auc
from common.shard import Shard
from pretrain.features import Features, pooled_features
from pretrain.networks import take_backbone
from pretrain.probe import linear_evaluation

SEEDS = (0, 1, 2)


class Profile(NamedTuple):
    """Settings for a kind of machine.

    Attributes:
        size: Size of the shards' images, in pixels.
        jobs: Number of pretrainings at the same time.
        common: Options of all methods.
        runs: Further options of each method.
    """

    size: int
    jobs: int
    common: list[str]
    runs: dict[str, list[str]]


# A slow encoder fast enough for few steps. The queue is the measured one: the command warns that it
# is more than a quarter of the films.
MOCO = ["--queue", "1024", "--ema", "0.99"]
CPU_PROFILE = Profile(
    size=96,
    jobs=2,
    common=[
        *("--batch-size", "64", "--image-size", "64"),
        *("--precision", "bf16" if is_fast_in_bf16(torch.device("cpu")) else "fp32"),
        *("--threads", "1"),
    ],
    runs={
        "mocov2": ["--epochs", "120", "--lr", "2", *MOCO],
        "simclr": ["--epochs", "40", "--lr", "2", "--temperature", "0.2"],
        "byol": ["--epochs", "120", "--lr", "2", "--ema", "0.96"],
        "rotation": ["--epochs", "15", "--lr", "0.2"],
    },
)
GPU_PROFILE = Profile(
    size=256,
    jobs=1,
    common=["--batch-size", "128"],
    runs={
        "mocov2": ["--epochs", "160", "--lr", "2", *MOCO],
        "simclr": ["--epochs", "120", "--lr", "2", "--temperature", "0.2"],
        "byol": ["--epochs", "100", "--lr", "2", "--ema", "0.96"],
        "rotation": ["--epochs", "50", "--lr", "0.1"],
    },
)
Run = dict[str, Any]
"""Results of one backbone, by measure."""

RESAMPLES = 200
BASELINES = ("random", "random, statistics")
PIXELS = "8 x 8 pixels"
ORIGIN = "source and view"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pretrain(profile: Profile, method: str, seed: int, shard: Shard, out: Path) -> Path:
    """Pretrain, or resume a pretraining; return the checkpoint."""
    checkpoint = out / f"{method}-{seed}.pt"
    command(
        *("flower-pretrain", "--data", shard.path, "--method", method, "--out", checkpoint),
        *("--seed", seed, "--resume", *profile.common, *profile.runs[method]),
    )
    return checkpoint


def backbone_of(init: str, seed: int) -> nn.Module:
    """Return the backbone of a federation's initial model."""
    state, _ = initial_state(init, "densenet121", seed)
    model = build_model("densenet121", seed)
    load_state(model, state)
    backbone: nn.Module = take_backbone(model)[0]
    return backbone.to(DEVICE).eval()


def with_statistics(backbone: nn.Module, shard: Shard) -> nn.Module:
    """Compute BatchNorm's running statistics from the images."""
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


def evaluate(of_films: Callable[[Films], Features], train: Films, test: Films) -> Run:
    """Return all measures of the features that ``of_films`` computes."""
    labels = test.shard.labelled()
    found = linear_evaluation(of_films(train), train.shard, of_films(test), labels)
    if found.held_out is None:
        raise ValueError("one patient cannot be cross-validated")
    return {
        "auc": mean_auc(found.auc_by_finding),
        "within_auc": within_sources(labels, found.scores, test.sources),
        "inside_auc": found.inside_auc,
        "inside_within_auc": within_sources(train.shard.labelled(), found.held_out, train.sources),
        "auc_by_finding": found.auc_by_finding,
        "scores": found.scores,
        "held_out": found.held_out,
    }


def network_features(backbone: nn.Module, films: Films) -> Features:
    """Return a network's features of films: float32, N x F."""
    return pooled_features(backbone, films.shard.images, DEVICE)


def noise_of_gains(
    runs: list[Run], baseline: list[Run], films: Films, scores: str
) -> tuple[float, float]:
    """Return the standard errors of the gains from the choice of films, by a patient bootstrap.

    The first is for AUC over all pairs, the second for AUC over pairs of the same source.
    """
    patients = np.array([entry.patient for entry in films.shard.entries])
    own = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    rng = np.random.default_rng(0)

    def aucs(runs: list[Run], rows: npt.NDArray[np.intp]) -> tuple[float, float]:
        labels, sources = films.shard.labelled()[rows], films.sources[rows]
        found = [run[scores][rows] for run in runs]
        return (
            statistics.mean(mean_auc(auc_by_finding(labels, one)) or 0 for one in found),
            statistics.mean(within_sources(labels, one, sources) for one in found),
        )

    gains = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([own[i] for i in rng.integers(len(own), size=len(own))])
        gains.append(np.subtract(aucs(runs, rows), aucs(baseline, rows)))
    every, within = np.std(gains, axis=0, ddof=1)
    return every, within


MEASURES = {
    "auc": "linear evaluation: fitted on the train_val films, scored on the test films",
    "within_auc": "the same, over pairs of the same source",
    "inside_auc": "linear evaluation on the train_val films, cross-validated by patient",
    "inside_within_auc": "the same, over pairs of the same source",
}


def mean_and_interval(differences: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean, and the half-width of its 95 % interval by Student's t."""
    error = differences.std(ddof=1) / len(differences) ** 0.5
    return float(differences.mean()), float(t.ppf(0.975, len(differences) - 1) * error)


def table(results: dict[str, list[Run]], measure: str) -> str:
    """Return a measure's means and gains over both baselines, paired by seed, as text."""
    aucs = {name: np.array([run[measure] for run in runs]) for name, runs in results.items()}

    def gain(name: str, baseline: str) -> str:
        if name == baseline:
            return ""
        found, half = mean_and_interval(aucs[name] - aucs[baseline])
        return f"{found:+.3f} +- {half:.3f}{'*' if abs(found) > half else ' '}"

    head = f"{'':20}{'AUC':>6}{'seeds':>23}{'gain over random':>20}{'with statistics':>20}"
    lines = [MEASURES[measure], head]
    for name, values in aucs.items():
        seeds = "  ".join(f"{auc:.3f}" for auc in values)
        gains = f"{gain(name, BASELINES[0]):>20}{gain(name, BASELINES[1]):>20}"
        lines.append(f"{name:20}{values.mean():>6.3f}{seeds:>23}{gains}".rstrip())
    return "\n".join(lines)


def table_by_finding(
    results: dict[str, list[Run]], train: npt.NDArray[np.uint8], test: npt.NDArray[np.uint8]
) -> str:
    """Return each finding's AUC on the test films and inside, means over the seeds, as text.

    Args:
        results: The runs.
        train: uint8, N x 14: labels of the train_val films.
        test: uint8, M x 14: labels of the test films.
    """
    lines = []
    for measure, scores, labels in (("auc", "scores", test), ("inside_auc", "held_out", train)):
        lines.append(f"{MEASURES[measure]}, by finding")
        lines.append(f"{'':20}{'films':>6}" + "".join(f"{name:>20}" for name in results))
        by_run = {
            name: [auc_by_finding(labels, np.array(run[scores])) for run in runs]
            for name, runs in results.items()
        }
        for column, finding in enumerate(FINDINGS):
            aucs = [np.array([run[finding] for run in runs], float) for runs in by_run.values()]
            cells = "".join(f"{values.mean():>20.3f}" for values in aucs)
            lines.append(f"{finding:20}{(labels[:, column] == 1).sum():>6}{cells}")
    return "\n".join(lines)


def main() -> None:
    """Run everything that is not done yet, and print the tables."""
    parser = command_line(__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=CPU_PROFILE.runs, default=CPU_PROFILE.runs)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    profile = GPU_PROFILE if DEVICE.type == "cuda" else CPU_PROFILE
    (train,), test = make_shards(arguments.films, arguments.lists, profile.size, out / "shards")
    with ThreadPoolExecutor(profile.jobs) as pool:
        jobs = {
            (method, seed): pool.submit(pretrain, profile, method, seed, train.shard, out)
            for method in arguments.methods
            for seed in SEEDS
        }
        checkpoints = {run: job.result() for run, job in jobs.items()}
    results: dict[str, list[Run]] = {
        ORIGIN: [evaluate(lambda films: films.origin, train, test)],
        PIXELS: [evaluate(thumbnails, train, test)],
    }
    for seed in SEEDS:
        random = {
            BASELINES[0]: backbone_of("random", seed),
            BASELINES[1]: with_statistics(backbone_of("random", seed), train.shard),
        }
        own = {name: backbone_of(str(checkpoints[name, seed]), seed) for name in arguments.methods}
        for name, backbone in (random | own).items():
            of_films = partial(network_features, backbone)
            results.setdefault(name, []).append(evaluate(of_films, train, test))
    (out / "results.json").write_text(json.dumps(results, default=np.ndarray.tolist) + "\n")
    counts = f"{len(train.shard)} images to pretrain and fit on, {len(test.shard)} to test on"
    print(f"{counts}, {profile.size} pixels")
    for measure in MEASURES:
        print("\n" + table(results, measure))
    print("\n+-: 95 % interval of the mean over the seeds; *: it excludes 0\n")
    print(table_by_finding(results, train.shard.labelled(), test.shard.labelled()) + "\n")
    print("standard errors of the gains, from the choice of films; the second: same source")
    for name in arguments.methods:
        for scores, films, what in (("scores", test, "test"), ("held_out", train, "train_val")):
            every, within = noise_of_gains(results[name], results[BASELINES[0]], films, scores)
            print(f"{name:20}{every:>8.3f}{within:>8.3f}   {what} films")


if __name__ == "__main__":
    main()
