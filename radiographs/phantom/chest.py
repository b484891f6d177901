"""Procedural chest phantoms: drawn frontal films with anatomy and findings.

A phantom is a stack of soft-edged shapes. Coordinates x (to the right) and y (downwards) run from
-1 to 1. Density is brightness, from 0 (air) to 1 (bone). As on any frontal film, the patient's
right is on the left. No phantom imitates a real patient or scanner.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from common.shard import Bytes

Plane = npt.NDArray[np.floating[Any]]
"""float32, S x S: a coordinate, a mask of 0 to 1 or a density."""

SIDES = (-1, 1)
"""The patient's right lung and left lung, by the sign of x."""

LUNG, TISSUE, ABDOMEN, HEART, BONE = 0.16, 0.5, 0.68, 0.7, 0.78


class Anatomy(NamedTuple):
    """The anatomy of one patient, the same on all films."""

    width: float
    height: float
    heart: float
    rib_gap: float
    rib_phase: float
    density: float


class Scanner(NamedTuple):
    """The scanner of one hospital, the same for all its films."""

    gamma: float
    contrast: float
    brightness: float
    noise: float
    blur: float
    collimation: float
    shading: float
    marker: int


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a patient at random."""
    return Anatomy(
        width=rng.uniform(0.9, 1.06),
        height=rng.uniform(0.92, 1.06),
        heart=rng.uniform(0.2, 0.25),
        rib_gap=rng.uniform(0.135, 0.165),
        rib_phase=rng.uniform(0, 1),
        density=rng.uniform(-0.04, 0.06),
    )


def draw_scanner(rng: np.random.Generator) -> Scanner:
    """Draw a hospital's scanner at random."""
    return Scanner(
        gamma=rng.uniform(0.87, 1.15),
        contrast=rng.uniform(0.88, 1.03),
        brightness=rng.uniform(-0.02, 0.05),
        noise=rng.uniform(0.01, 0.03),
        blur=rng.uniform(0, 0.003),
        collimation=rng.uniform(0, 0.07),
        shading=rng.uniform(-0.08, 0.08),
        marker=int(rng.choice(SIDES)),
    )


def soft(distance: Plane, width: float = 0.015) -> Plane:
    """Return 1 well inside (distance > 0) and 0 well outside, with an edge of this width."""
    mask: Plane = 0.5 + 0.5 * np.tanh(distance / width)
    return mask


def blob(x: Plane, y: Plane, at: tuple[float, float], radii: tuple[float, float]) -> Plane:
    """Return a Gaussian spot, 1 in its centre."""
    spread = ((x - at[0]) / radii[0]) ** 2 + ((y - at[1]) / radii[1]) ** 2
    spot: Plane = np.exp(-spread)
    return spot


def disc(x: Plane, y: Plane, at: tuple[float, float], radius: float, edge: float = 0.015) -> Plane:
    """Return a disc with a soft edge."""
    return soft(radius - np.hypot(x - at[0], y - at[1]), edge)


def clouds(shape: tuple[int, int], cells: int, rng: np.random.Generator) -> Plane:
    """Return smooth noise of about -1 to 1, with ``cells`` bumps along each side."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize(shape, Image.Resampling.BICUBIC)) * np.float32(0.6)


@dataclass
class Chest:
    """A film that is being drawn.

    Attributes:
        x: x coordinates in the patient's frame.
        y: y coordinates in the patient's frame.
        film: Density; findings are painted into it.
        lungs: Mask of each lung, by the sign of x: -1 and 1.
        lateral: Distance of the chest wall from the midline.
        diaphragm: y of the diaphragm, by side.
        rng: Random generator for texture and for the places of findings.
    """

    x: Plane
    y: Plane
    film: Plane
    lungs: dict[int, Plane]
    lateral: Plane
    diaphragm: dict[int, Plane]
    rng: np.random.Generator

    def paint(self, mask: Plane, density: float) -> None:
        """Blend the film towards a density, weighted by the mask."""
        self.film += mask * (np.float32(density) - self.film)

    def side(self) -> int:
        """Choose one of the two lungs at random."""
        return int(self.rng.choice(SIDES))

    def place(self, side: int, top: float, bottom: float) -> tuple[float, float]:
        """Choose a random point well inside a lung, between two heights."""
        y = self.rng.uniform(top, bottom)
        return side * self.rng.uniform(0.3, 0.5), y

    def shape(self) -> tuple[int, int]:
        """Return the shape of the film."""
        return self.film.shape[0], self.film.shape[1]


def draw_chest(
    size: int,
    anatomy: Anatomy,
    rng: np.random.Generator,
    *,
    heart_scale: float = 1.0,
    inflation: float = 0.0,
) -> Chest:
    """Draw a chest without findings.

    Args:
        size: S, pixels along each side.
        anatomy: The patient's anatomy.
        rng: Random generator for position and texture.
        heart_scale: Width of the heart; 1 is normal.
        inflation: Hyperinflation of the lungs; 0 is normal.
    """
    line = np.linspace(-1, 1, size, dtype=np.float32)
    tilt, shift, lower = rng.normal(0, 0.025), rng.normal(0, 0.02), rng.normal(0, 0.025)
    x = (line[None, :] - shift + tilt * line[:, None]) / np.float32(anatomy.width)
    y = (line[:, None] - lower - tilt * line[None, :]) / np.float32(anatomy.height)
    x, y = x.astype(np.float32), y.astype(np.float32)
    out = np.abs(x)

    wall = np.sqrt(np.clip(1 - (np.minimum(y - 0.25, 0) / 1.06) ** 2, 0, 1))
    lateral = (0.74 + 0.05 * inflation) * wall
    diaphragm: dict[int, Plane] = {
        side: (0.47 if side < 0 else 0.53)
        + 0.16 * inflation
        + (0.2 - 0.17 * inflation) * ((side * x - 0.36) / 0.36) ** 2
        for side in SIDES
    }
    lungs: dict[int, Plane] = {
        side: soft(lateral - side * x) * soft(side * x - 0.13) * soft(diaphragm[side] - y)
        for side in SIDES
    }
    shoulders = 0.3 + 0.65 * soft(y + 0.83, 0.14)
    film = np.full(x.shape, 0.02, np.float32)
    chest = Chest(x, y, film, lungs, lateral, diaphragm, rng)
    chest.paint(soft(shoulders - out, 0.03), TISSUE + anatomy.density)
    below = soft(y - np.where(x < 0, diaphragm[-1], diaphragm[1])) * soft(0.9 - out, 0.03)
    chest.paint(0.9 * below, ABDOMEN)
    _draw_lungs(chest, inflation)
    _draw_bones(chest, anatomy)
    _draw_middle(chest, anatomy.heart * heart_scale * (1 - 0.25 * inflation))
    return chest


def _draw_lungs(chest: Chest, inflation: float) -> None:
    """Draw air, and vessels that fan out from the hila."""
    x, y = chest.x, chest.y
    for side in SIDES:
        chest.paint(chest.lungs[side], LUNG - 0.08 * inflation)
        hilum = (side * 0.2, -0.02)
        vessels = np.abs(clouds(chest.shape(), 22, chest.rng)) < 0.16
        near = blob(x, y, hilum, (0.34, 0.42))
        chest.film += (0.1 - 0.06 * inflation) * chest.lungs[side] * near * vessels
        chest.paint(0.4 * blob(x, y, hilum, (0.07, 0.13)) * chest.lungs[side], HEART)
    # A bubble of air in the stomach, below the left dome.
    chest.paint(0.6 * blob(x, y, (0.36, 0.72), (0.1, 0.06)), LUNG)


def _draw_bones(chest: Chest, anatomy: Anatomy) -> None:
    """Draw ribs and clavicles."""
    y, out = chest.y, np.abs(chest.x)
    both = chest.lungs[-1] + chest.lungs[1]
    arc = y - 0.3 * out + 0.75 * (out - 0.25) ** 2
    phase = np.abs((arc / anatomy.rib_gap + anatomy.rib_phase) % 1 - 0.5)
    ribs = soft(0.17 - phase, 0.1) * soft(0.8 - out, 0.02) * soft(0.62 - y)
    chest.film += ribs * soft(y + 0.8) * (0.04 + 0.07 * both)
    clavicle = np.abs(y + 0.6 + 0.16 * (out - 0.1) + 0.1 * np.sin(5 * out))
    ends = soft(out - 0.09) * soft(0.7 - out)
    chest.film += 0.17 * soft(0.03 - clavicle) * ends


def _draw_middle(chest: Chest, heart: float) -> None:
    """Draw mediastinum, trachea, heart, aortic knob and, faintly, the spine with its discs."""
    x, y, out = chest.x, chest.y, np.abs(chest.x)
    band = soft(0.12 + 0.03 * (y + 0.4) ** 2 - out, 0.02)
    chest.paint(0.9 * band, HEART - 0.06)
    chest.paint(disc(x, y, (0.11, -0.2), 0.085), HEART - 0.02)
    turned = (x - 0.28 * heart / 0.22 * 0.4) + 0.35 * (y - 0.3), y - 0.3 - 0.2 * (x - 0.1)
    reach = 1 - np.hypot(turned[0] / (heart * 1.35), turned[1] / (0.2 + 0.35 * heart))
    chest.paint(0.95 * soft(reach, 0.08), HEART)
    discs = 0.5 + 0.5 * np.cos(y * 38)
    spine = soft(0.075 - out, 0.02)
    chest.film += spine * 0.05 + 0.04 * discs
    chest.paint(0.55 * soft(0.035 - out) * soft(-0.22 - y, 0.04), 0.3)


def develop(chest: Chest, scanner: Scanner) -> Bytes:
    """Return the film as the scanner renders it: uint8, S x S, 0 to 255."""
    size = len(chest.film)
    film = chest.film + 0.02 * clouds(chest.shape(), 9, chest.rng)
    film = np.clip(film * (1 + scanner.shading * chest.y), 0, 1) ** scanner.gamma
    film = film * scanner.contrast + scanner.brightness
    line = np.abs(np.linspace(-1, 1, size))
    film[:, line > 1 - scanner.collimation] = 0.01
    # The side marker that technicians place beside a shoulder.
    row, column, bar = int(0.09 * size), int((0.5 + 0.38 * scanner.marker) * size), size // 32
    film[row : row + 2 * bar, column : column + bar] = 0.95
    picture = Image.fromarray(_to_bytes(film)).filter(ImageFilter.BoxBlur(scanner.blur * size))
    noise = scanner.noise * chest.rng.standard_normal(film.shape, np.float32)
    return _to_bytes(np.asarray(picture) / 255 + noise)


def _to_bytes(film: Plane) -> Bytes:
    grey: Bytes = np.clip(film * 255 + 0.5, 0, 255).astype(np.uint8)
    return grey
