"""What ``flower-data site`` tells of the films that it took and of those that it refused."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from common.findings import UNKNOWN
from common.shard import IMAGES
from radiographs.read.extent import extent_of
from radiographs.read.film_file import why_dull
from radiographs.sources.site_films import Film


def tell_unknown(films: Sequence[Film]) -> None:
    """Print how many labels are unknown, if any."""
    labels = np.array([film.labels for film in films if film.labels is not None])
    if unknown := int((labels == UNKNOWN).sum()):
        print(f"{unknown} of {labels.size} labels are unknown; flower-data show counts them")


def tell_dull(shard: Path, root: Path, taken: Mapping[str, PurePosixPath]) -> Counter[str]:
    """Report films that use little of the grey scale; return how many have each likely cause.

    Unlike a refused file, such a film is named by its number: it is in the shard.

    Args:
        shard: The shard.
        root: Folder of the files.
        taken: The file of each film in the shard, by its number, in the shard's order.
    """
    causes: Counter[str] = Counter()
    pictures = np.load(shard / IMAGES, mmap_mode="r")
    for (number, file), picture in zip(taken.items(), pictures, strict=True):
        extent = extent_of(Image.fromarray(picture))
        if extent.dull:
            cause = why_dull(root / file)
            causes[cause] += 1
            print(
                f"dull: image {number}: {extent.levels} grey levels between {extent.low} and "
                f"{extent.high} of 255; likely cause: {cause}",
                file=sys.stderr,
            )
    return causes


def tell_refused(refused: Mapping[PurePosixPath, str]) -> None:
    """Name each refused file on stderr, with the reason."""
    for file, reason in refused.items():
        print(f"refused: {file}: {reason}", file=sys.stderr)
