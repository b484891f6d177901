"""Finds blank, dull, inverted and duplicate films."""

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
from radiographs.read.extent import extent_of

Floats = npt.NDArray[np.float32]

BLANK_RANGE = 16
"""A film with a smaller range and without structure is blank: nothing can be seen on it."""

STRUCTURE = 0.3
"""Least share of the variance that lies between 16 x 16 fields if there is anything to see.

It is below 0.07 for noise on 64 x 64 pixels or more, and at least 0.55 for the 11,262 real films
with a sixteenth of their range left. With a 64th left, one of these is below, with a 128th six.
"""

COARSE, FINE = 16, 64
"""Sides, in pixels, of the thumbnails that are compared."""

BROAD = 8
"""Side of a thumbnail so small that all chests look alike."""

CANDIDATE, SAME = 0.975, 0.98
"""Lowest correlations of two coarse, and of two fine, thumbnails of nearly the same film.

Among 1,724 real films, two films of different patients correlate by at most 0.953 (fine). A copy
that was compressed (JPEG quality 50), resized or changed in gamma by 0.7 always exceeds 0.987.
Copies that were shifted by 1 % or cropped by 2 % are mostly not found. Phantoms are more alike
than patients.
"""

BLOCK = 2048
"""Films on each side of one matrix of comparisons."""


class Picture(NamedTuple):
    """A film's features.

    Attributes:
        digest: 16-byte hash of the pixels.
        blank: Whether nothing can be seen on the film.
        dull: Whether something can be seen, but in few grey levels or in a small range.
        inverted: Whether air is white.
        coarse: float32, 256: a thumbnail of mean 0 and length 1; zeros if blank.
    """

    digest: bytes
    blank: bool
    dull: bool
    inverted: bool
    coarse: Floats


def look_at(film: Bytes) -> Picture:
    """Describe a film, uint8, S x S."""
    extent = extent_of(Image.fromarray(film))
    blank = extent.high - extent.low < BLANK_RANGE and _structure(film) < STRUCTURE
    coarse = thumbnail(film, COARSE)
    return Picture(
        hashlib.blake2b(film.tobytes(), digest_size=16).digest(),
        blank,
        extent.dull and not blank,
        not blank and float(coarse @ _chest()) < 0,
        np.zeros_like(coarse) if blank else coarse,
    )


def _structure(film: Bytes) -> float:
    """Return the share of a film's variance between 16 x 16 fields, 0 to 1; 0 if all is alike."""
    fine = film.astype(np.float32)
    fields = Image.fromarray(fine).resize((COARSE, COARSE), Image.Resampling.BOX)
    return float(np.asarray(fields).var() / max(float(fine.var()), 1e-6))


def thumbnail(film: Bytes, side: int) -> Floats:
    """Return a film's means over side x side fields, float32, with mean 0 and length 1.

    The dot product of two thumbnails is their correlation, independent of brightness and contrast.
    """
    small = Image.fromarray(film).resize((side, side), Image.Resampling.BOX)
    values: Floats = np.array(small, np.float32).ravel()
    values -= values.mean()
    values /= max(float(np.linalg.norm(values)), 1e-6)
    return values


@cache
def _chest() -> Floats:
    """Return the thumbnail of an average chest: the mean of phantoms at low resolution.

    Its correlation is negative with two of 1,724 real films, which are inverted.
    """
    healthy = np.zeros(len(FINDINGS), np.uint8)
    films = [
        draw_film(
            64,
            draw_anatomy(generator(patient, "anatomy")),
            draw_scanner(generator(patient, "scanner")),
            healthy,
            generator(patient, "film"),
        )
        for patient in range(8)
    ]
    mean = Image.fromarray(np.mean(films, axis=0).astype(np.uint8))
    broad = mean.resize((BROAD, BROAD), Image.Resampling.BOX)
    return thumbnail(np.asarray(broad.resize((64, 64), Image.Resampling.NEAREST)), COARSE)


def alike(coarse: Floats) -> Iterator[tuple[int, int]]:
    """Yield the pairs i < j of films with similar coarse thumbnails: candidates for copies.

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
    """Return whether two films are copies, by their fine thumbnails."""
    return float(thumbnail(one, FINE) @ thumbnail(other, FINE)) >= SAME
