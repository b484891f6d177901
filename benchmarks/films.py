"""1,724 real films and their sources.

The films come from several public repositories, which chose them by their findings. Features that
distinguish the repositories therefore predict findings, too. AUC over pairs of the same source
avoids this.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from common.findings import FINDINGS
from common.metrics import auc_by_finding
from common.shard import Bytes, Shard, open_shard
from pretrain.features import Features


class Films(NamedTuple):
    """A shard with the sources of its films.

    Attributes:
        shard: N films.
        sources: Source of each film: a folder of a public repository.
        origin: float32, N x K: 1 for the film's source and for its view position, else 0.
    """

    shard: Shard
    sources: npt.NDArray[np.str_]
    origin: Features


def command(*arguments: object) -> None:
    """Run one of the project's commands, with output to the terminal."""
    name, *rest = map(str, arguments)
    module = {"flower-data": "radiographs.cli", "flower-pretrain": "pretrain.cli"}[name]
    subprocess.run([sys.executable, "-c", f"from {module} import main; main()", *rest], check=True)


def make_shards(
    films: Path, lists: Path, size: int, out: Path, parts: int = 1
) -> tuple[list[Films], Films]:
    """Return the train_val films, in parts without a common patient, and the test films."""
    metadata = films / "labels.csv"
    if not out.exists():
        command(
            *("flower-data", "chestxray14", "--images", films / "images", "--metadata", metadata),
            *("--train-list", lists / "train_val_list.txt", "--test-list", lists / "test_list.txt"),
            *("--hospitals", parts, "--partition", "iid", "--group-by", "patient"),
            *("--size", size, "--allow-missing", "--out", out),
        )
    origins = _origins(metadata)
    names = [f"hospital-{part:02}" for part in range(parts)]
    *train, test = (_with_origins(open_shard(out / name), origins) for name in [*names, "test"])
    return train, test


def _origins(metadata: Path) -> dict[str, tuple[str, str]]:
    """Return the source and view position of every image."""
    with metadata.open(encoding="utf-8", newline="") as file:
        return {
            line["Image Index"]: (
                f"{line['Source']}/{Path(line['Source Path']).parent}",
                line["View Position"],
            )
            for line in csv.DictReader(file)
        }


def _with_origins(shard: Shard, origins: dict[str, tuple[str, str]]) -> Films:
    known = sorted({name for origin in origins.values() for name in origin})
    own = [origins[entry.image] for entry in shard.entries]
    columns = np.array([[name in origin for name in known] for origin in own], np.float32)
    return Films(shard, np.array([source for source, _ in own]), columns)


def command_line(description: str) -> argparse.ArgumentParser:
    """Return a parser of the options that all runs on the films share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--films", type=Path, required=True, help="images/ and labels.csv")
    parser.add_argument("--lists", type=Path, required=True, help="the official split")
    parser.add_argument("--out", type=Path, required=True, help="shards, checkpoints, results")
    return parser


def within_sources(labels: Bytes, scores: Features, sources: npt.NDArray[np.str_]) -> float:
    """Return the mean over the findings of the AUC over pairs of films of the same source.

    The AUC is the share of pairs, one film with the finding and one without, in which the first has
    the higher score. It is 0.5 for scores that depend only on the source. A finding without such a
    pair is left out.

    Args:
        labels: uint8, N x 14, 0, 1 or UNKNOWN.
        scores: float32, N x 14; higher means more likely.
        sources: N names.
    """
    won, pairs = np.zeros(len(FINDINGS)), np.zeros(len(FINDINGS))
    for source in np.unique(sources):
        own = sources == source
        count = (labels[own] == 1).sum(axis=0) * (labels[own] == 0).sum(axis=0)
        won += count * [auc or 0 for auc in auc_by_finding(labels[own], scores[own]).values()]
        pairs += count
    return float(np.mean(won[pairs > 0] / pairs[pairs > 0]))


def thumbnails(films: Films) -> Features:
    """Return films as 8 x 8 pixels: float32, N x 64; their size must be a multiple of 8."""
    images = films.shard.images
    side = images.shape[-1] // 8
    means: Features = images.reshape(-1, 8, side, 8, side).mean(axis=(2, 4), dtype=np.float32)
    return means.reshape(-1, 64)
