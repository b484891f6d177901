"""Draws each of the fourteen findings into a phantom.

The drawings are crude, but each finding is visible, has its own look and place, and varies from
film to film.
"""

from collections.abc import Callable

import numpy as np

from common.findings import FINDINGS
from common.shard import Bytes
from radiographs.phantom.chest import (
    SIDES,
    Anatomy,
    Chest,
    Scanner,
    blob,
    clouds,
    develop,
    disc,
    draw_chest,
    soft,
)


def _atelectasis(chest: Chest) -> None:
    """Plate-like bands in a lower lung."""
    side = chest.side()
    for top, bottom in ((-0.05, 0.05), (0.15, 0.3)):
        x, y = chest.place(side, top, bottom)
        slope = chest.rng.uniform(-0.2, 0.2)
        band = np.abs(chest.y - y - slope * (chest.x - x))
        reach = blob(chest.x, chest.y, (x, y), (0.38, 0.4))
        chest.paint(0.95 * soft(0.05 - band) * reach * chest.lungs[side], 0.8)


def _effusion(chest: Chest) -> None:
    """Fluid at the base of a lung, rising along the wall in a meniscus."""
    side = chest.side()
    level = chest.rng.uniform(0.08, 0.25)
    meniscus = level - 0.22 * np.clip(side * chest.x / 0.74, 0, 1) ** 4
    # Reach below the diaphragm, to leave no dark seam between fluid and abdomen.
    inside = soft(chest.lateral - side * chest.x) * soft(chest.diaphragm[side] + 0.02 - chest.y)
    inside *= soft(side * chest.x - 0.13)
    chest.paint(0.95 * soft(chest.y - meniscus) * inside, 0.85)


def _infiltration(chest: Chest) -> None:
    """Patchy, ill-defined haze over the middle of both lungs."""
    patches = np.clip(clouds(chest.shape(), 11, chest.rng) * 1.8, 0, 1)
    for side in SIDES:
        zone = blob(chest.x, chest.y, (side * 0.45, 0.02), (0.4, 0.45))
        chest.paint(0.95 * patches * zone * chest.lungs[side], 0.6)


def _mass(chest: Chest) -> None:
    """One large round opacity."""
    side = chest.side()
    radius = chest.rng.uniform(0.15, 0.2)
    at = chest.place(side, -0.4, 0.2)
    chest.paint(0.85 * disc(chest.x, chest.y, at, radius, 0.02), 0.85)


def _nodule(chest: Chest) -> None:
    """A few small round opacities, dense and sharp."""
    for _ in range(chest.rng.integers(4, 8)):
        at = chest.place(chest.side(), -0.5, 0.3)
        radius = chest.rng.uniform(0.045, 0.06)
        chest.paint(0.95 * disc(chest.x, chest.y, at, radius), 0.85)


def _pneumonia(chest: Chest) -> None:
    """A fluffy opacity in one lower lung, with air-filled bronchi left dark in it."""
    side = chest.side()
    at = chest.place(side, 0.1, 0.25)
    airways = np.abs(clouds(chest.shape(), 14, chest.rng)) < 0.12
    cloud = blob(chest.x, chest.y, at, (0.27, 0.27)) * (1 - 0.6 * airways)
    chest.paint(0.9 * cloud.astype(np.float32) * chest.lungs[side], 0.72)


def _pneumothorax(chest: Chest) -> None:
    """Air without vessels along the wall of one lung, and the bright line of its pleura."""
    side = chest.side()
    depth = chest.rng.uniform(0.13, 0.22)
    inward = chest.lateral - side * chest.x
    free = soft(depth - inward, 0.01) * soft(0.3 - chest.y, 0.1)
    chest.paint(free * chest.lungs[side], 0.02)
    edge = soft(0.014 - np.abs(inward - depth), 0.008)
    chest.paint(0.7 * edge * chest.lungs[side] * soft(0.3 - chest.y, 0.05), 0.65)


def _consolidation(chest: Chest) -> None:
    """An upper lobe without air, ending sharply at the fissure."""
    side = chest.side()
    fissure = chest.rng.uniform(-0.3, -0.12)
    above = soft(fissure - chest.y + 0.1 * (np.abs(chest.x) - 0.4))
    chest.paint(0.85 * above * chest.lungs[side], 0.64)


def _edema(chest: Chest) -> None:
    """Haze around both hila, spread like the wings of a bat."""
    for side in SIDES:
        wing = blob(chest.x, chest.y, (side * 0.24, -0.04), (0.25, 0.36))
        chest.paint(0.9 * wing * chest.lungs[side], 0.62)


def _fibrosis(chest: Chest) -> None:
    """A net of fine lines over both lower lungs."""
    phase = chest.rng.uniform(0, 6, 2)
    warp = 0.05 * clouds(chest.shape(), 9, chest.rng)
    x, y = chest.x + warp, chest.y - warp
    net = np.maximum(np.sin(42 * (x + y) + phase[0]), np.sin(42 * (x - y) + phase[1]))
    lines = soft(net - 0.5, 0.2)
    for side in SIDES:
        base = blob(chest.x, chest.y, (side * 0.48, 0.32), (0.32, 0.28))
        chest.paint(0.95 * lines * base * chest.lungs[side], 0.7)


def _pleural_thickening(chest: Chest) -> None:
    """A bright rim along the wall and over the apex of one lung."""
    side = chest.side()
    depth = chest.rng.uniform(0.09, 0.13)
    wave = 0.015 * clouds(chest.shape(), 7, chest.rng)
    inward = chest.lateral - side * chest.x + wave
    rim = soft(depth - inward, 0.012)
    chest.paint(0.9 * rim * chest.lungs[side], 0.74)


def _hernia(chest: Chest) -> None:
    """Stomach behind the heart: a ring with a level of fluid below air."""
    at = (chest.rng.uniform(-0.05, 0.12), chest.rng.uniform(0.3, 0.4))
    radius = chest.rng.uniform(0.18, 0.21)
    chest.paint(0.95 * disc(chest.x, chest.y, at, radius), 0.92)
    air = disc(chest.x, chest.y, at, radius - 0.03) * soft(at[1] + 0.02 - chest.y)
    chest.paint(0.95 * air, 0.2)


PAINTERS: dict[str, Callable[[Chest], None]] = {
    "Atelectasis": _atelectasis,
    "Effusion": _effusion,
    "Infiltration": _infiltration,
    "Mass": _mass,
    "Nodule": _nodule,
    "Pneumonia": _pneumonia,
    "Pneumothorax": _pneumothorax,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Fibrosis": _fibrosis,
    "Pleural_Thickening": _pleural_thickening,
    "Hernia": _hernia,
}


def draw_film(
    size: int, anatomy: Anatomy, scanner: Scanner, labels: Bytes, rng: np.random.Generator
) -> Bytes:
    """Draw a film with its findings.

    Cardiomegaly is a wide heart; emphysema is large dark lungs over a flat, low diaphragm.

    Args:
        size: S, pixels along each side.
        anatomy: The patient's anatomy.
        scanner: The hospital's scanner.
        labels: uint8, 14, 0 or 1.
        rng: Random generator for everything that differs between two films of a patient.

    Returns:
        uint8, S x S, 0 to 255.
    """
    present = {name for name, label in zip(FINDINGS, labels, strict=True) if label}
    chest = draw_chest(
        size,
        anatomy,
        rng,
        heart_scale=rng.uniform(1.55, 1.8) if "Cardiomegaly" in present else 1.0,
        inflation=rng.uniform(0.8, 1.1) if "Emphysema" in present else 0.0,
    )
    for name, paint in PAINTERS.items():
        if name in present:
            paint(chest)
    return develop(chest, scanner)
