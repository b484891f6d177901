"""Shards of noise, and where the real films are."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from common.findings import UNKNOWN
from common.shard import Entry, Shard, create_shard, open_shard

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


needs_shared_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the real ChestX-ray14 files are not beside this checkout"
)


def make_shard(
    path: Path,
    images: int = 40,
    size: int = 40,
    labelled: bool = True,
    seed: int = 0,
    unknown: float = 0,
    unlabelled: Iterable[int] = (),
) -> Shard:
    """Write a shard of noise with two images a patient.

    A share of the labels, and all those of some images, can be unknown. Images and the other
    labels are the same as without.
    """
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, 14)) < 0.3).astype(np.uint8)
    labels[np.random.default_rng(seed + 1).random(labels.shape) < unknown] = UNKNOWN
    labels[list(unlabelled)] = UNKNOWN
    with create_shard(
        path,
        entries=[Entry(f"{i:06d}.png", f"{path.name}-{i // 2}", "train") for i in range(images)],
        labels=labels if labelled else None,
        size=size,
        source="noise",
        seed=seed,
    ) as pixels:
        pixels[:] = rng.integers(0, 256, pixels.shape)
    return open_shard(path)


def make_hospitals(root: Path, count: int, images: int = 40, size: int = 40) -> list[Path]:
    """Write shards of different sizes; return their folders."""
    return [
        make_shard(root / f"hospital-{i:02d}", images + 6 * i, size, seed=i).path
        for i in range(count)
    ]


def reseal(shard: Path, name: str) -> None:
    """Let the manifest agree with a file that was changed."""
    manifest = json.loads((shard / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256((shard / name).read_bytes()).hexdigest()
    (shard / "manifest.json").write_text(json.dumps(manifest))
