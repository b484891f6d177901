"""What can be seen of a shard's films without a radiologist: blank, inverted, there twice."""

import hashlib
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from common.findings import FINDINGS
from common.seeds import generator
from common.shard import Bytes
from radiographs.phantom.chest import draw_anatomy, draw_scanner
from radiographs.phantom.findings import draw_film

Floats = npt.NDArray[np.float32]

BLANK_RANGE = 16
"""Grey levels between the 1st and the 99th percentile; of 1,724 real films none has below 99."""

COARSE, FINE = 16, 64
"""Sides of the thumbnails by which films are compared."""

BROAD = 8
"""Side of the thumbnail in which all chests agree."""

CANDIDATE, SAME = 0.975, 0.98
"""Correlation of two coarse, and two fine thumbnails, from which films count as nearly the same.

On 1,724 real films no two of different patients are above 0.953 (fine), while a copy that was
compressed (JPEG quality 50), resized or changed in gamma by 0.7 is always above 0.987; copies that
were shifted by 1 % or cropped by 2 % are mostly not found. Phantoms are more alike than patients.
"""

BLOCK = 2048
"""Films that are compared with as many others at a time."""


class Picture(NamedTuple):
    """What is kept of a film.

    Attributes:
        digest: 16 bytes that stand for its pixels.
        blank: Nothing can be seen on it.
        inverted: Air is white on it.
        coarse: float32, 256: a thumbnail of mean 0 and length 1; zeros if blank.
    """

    digest: bytes
    blank: bool
    inverted: bool
    coarse: Floats


def look_at(film: Bytes) -> Picture:
    """Describe a film, uint8, S x S."""
    counts = np.cumsum(np.bincount(film.ravel(), minlength=256)) / film.size
    low, high = np.searchsorted(counts, [0.01, 0.99])
    blank = bool(high - low < BLANK_RANGE)
    coarse = thumbnail(film, COARSE)
    return Picture(
        hashlib.blake2b(film.tobytes(), digest_size=16).digest(),
        blank,
        not blank and float(coarse @ _chest()) < 0,
        np.zeros_like(coarse) if blank else coarse,
    )


def thumbnail(film: Bytes, side: int) -> Floats:
    """Return a film's means over side x side fields, float32, with mean 0 and length 1.

    The product of two is their correlation, which brightness and contrast do not change.
    """
    small = Image.fromarray(film).resize((side, side), Image.Resampling.BOX)
    values: Floats = np.array(small, np.float32).ravel()
    values -= values.mean()
    values /= max(float(np.linalg.norm(values)), 1e-6)
    return values


@cache
def _chest() -> Floats:
    """Return what a chest looks like from afar: a mean of phantoms, as :func:`thumbnail`.

    Of 1,724 real films its correlation is negative with two, and those are inverted.
    """
    well = np.zeros(len(FINDINGS), np.uint8)
    films = [
        draw_film(
            64,
            draw_anatomy(generator(patient, "anatomy")),
            draw_scanner(generator(patient, "scanner")),
            well,
            generator(patient, "film"),
        )
        for patient in range(8)
    ]
    mean = Image.fromarray(np.mean(films, axis=0).astype(np.uint8))
    broad = mean.resize((BROAD, BROAD), Image.Resampling.BOX)
    return thumbnail(np.asarray(broad.resize((64, 64), Image.Resampling.NEAREST)), COARSE)


def alike(coarse: Floats) -> Iterator[tuple[int, int]]:
    """Yield the pairs i < j of films whose coarse thumbnails are alike; they may be the same.

    Args:
        coarse: float32, N x 256.
    """
    for top in range(0, len(coarse), BLOCK):
        for left in range(top, len(coarse), BLOCK):
            products = coarse[top : top + BLOCK] @ coarse[left : left + BLOCK].T
            for i, j in np.argwhere(products >= CANDIDATE).tolist():
                if top + i < left + j:
                    yield top + i, left + j


def nearly_same(one: Bytes, other: Bytes) -> bool:
    """Return whether two films are copies of one, by their fine thumbnails."""
    return float(thumbnail(one, FINE) @ thumbnail(other, FINE)) >= SAME
