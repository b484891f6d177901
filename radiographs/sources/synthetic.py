"""``flower-data synthetic``: makes hospitals of procedural chest phantoms, for demo and tests.

Hospitals differ as real ones do: each has its own scanner, mix of findings and number of images.
Everything follows from the seed.
"""

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from tqdm import tqdm

from common.findings import FINDINGS
from common.runtime.cli import Settings, parse
from common.runtime.folders import whole_folder
from common.seeds import generator
from common.shard import SMALLEST, Bytes, Entry, create_shard
from radiographs.phantom.chest import Scanner, draw_anatomy, draw_scanner
from radiographs.phantom.findings import draw_film
from radiographs.write.parallel import in_order

Floats = npt.NDArray[np.float64]

PREVALENCE = {
    "Atelectasis": 0.18,
    "Cardiomegaly": 0.14,
    "Effusion": 0.18,
    "Infiltration": 0.21,
    "Mass": 0.13,
    "Nodule": 0.14,
    "Pneumonia": 0.13,
    "Pneumothorax": 0.13,
    "Consolidation": 0.13,
    "Edema": 0.11,
    "Emphysema": 0.11,
    "Fibrosis": 0.11,
    "Pleural_Thickening": 0.11,
    "Hernia": 0.1,
}
"""Prevalence over all hospitals; at least 10 %, since 0.2 % is too rare to learn."""

SKEW = 0.7
"""Standard deviation of log(prevalence at a hospital / general prevalence)."""

PERSISTENCE = 0.8
"""Probability that a patient's film shows a finding that the patient has."""

MOST_FILMS = 4
"""Most films of one patient."""


class SyntheticSettings(Settings):
    """Write synthetic hospitals, a test shard, and a shard without labels for pretraining."""

    model_config = SettingsConfigDict(
        env_prefix="FLOWER_DATA_", cli_prog_name="flower-data synthetic"
    )

    out: Path = Field(description="new folder for hospital-00 ..., test and pretrain")
    hospitals: int = Field(10, ge=1, le=100, description="number of hospitals")
    images: int = Field(
        640, ge=16, description="mean images of a hospital; test has 2 and pretrain 4 times as many"
    )
    size: int = Field(256, ge=SMALLEST, description=f"pixels along each side, at least {SMALLEST}")
    seed: int = Field(0, ge=0, description="decides every draw")


class Film(NamedTuple):
    """An image to draw."""

    image: str
    patient: str
    labels: Bytes
    scanner: Scanner


def command(arguments: Sequence[str]) -> None:
    """Run the command.

    Raises:
        BadInput: An option cannot be used, or --out is taken.
    """
    settings = parse(SyntheticSettings, arguments)
    parts = {name: films_of(settings, name) for name in _names(settings)}
    pictures = in_order(
        partial(draw, size=settings.size, seed=settings.seed),
        [film for films in parts.values() for film in films],
        workers=0,
    )
    total = sum(map(len, parts.values()))
    with (
        whole_folder(settings.out) as folder,
        closing(pictures),
        tqdm(total=total, unit=" images", desc="drawing", disable=None) as progress,
    ):
        for name, films in parts.items():
            split = "test" if name == "test" else "train"
            with create_shard(
                folder / name,
                entries=[Entry(film.image, film.patient, split) for film in films],
                labels=np.array([film.labels for film in films]) if name != "pretrain" else None,
                size=settings.size,
                source="synthetic",
                partition=f"prevalence skew {SKEW}, sizes 0.6 to 1.5",
                seed=settings.seed,
            ) as images:
                for i in range(len(films)):
                    images[i] = next(pictures)
                    progress.update()
    print(f"{settings.out}: {', '.join(f'{name} {len(films)}' for name, films in parts.items())}")


def draw(film: Film, size: int, seed: int) -> Bytes:
    """Return a film's pixels, uint8, S x S; the same for the same seed and names."""
    return draw_film(
        size,
        draw_anatomy(generator(seed, "anatomy", site=film.patient)),
        film.scanner,
        film.labels,
        generator(seed, "film", site=film.image),
    )


def _names(settings: SyntheticSettings) -> list[str]:
    return [*(_hospital(i) for i in range(settings.hospitals)), "test", "pretrain"]


def _hospital(number: int) -> str:
    return f"hospital-{number:02d}"


def films_of(settings: SyntheticSettings, name: str) -> list[Film]:
    """Choose a shard's patients and the findings on their films.

    The shards for test and pretraining use all hospitals' scanners and the general prevalence.
    """
    rng = generator(settings.seed, "patients", site=name)
    general = np.array([PREVALENCE[finding] for finding in FINDINGS])
    scanners = [
        draw_scanner(generator(settings.seed, "scanner", site=_hospital(i)))
        for i in range(settings.hospitals)
    ]
    if name == "test":
        number, prevalence = 2 * settings.images, general
    elif name == "pretrain":
        number, prevalence = 4 * settings.images, general
    else:
        number = _sizes(settings)[_names(settings).index(name)]
        prevalence = np.clip(general * np.exp(rng.normal(0, SKEW, len(general))), 0.01, 0.4)
        scanners = [scanners[_names(settings).index(name)]]
    films: list[Film] = []
    while len(films) < number:
        patient = f"{name}-{len({film.patient for film in films}):05d}"
        ill = rng.random(len(FINDINGS)) < prevalence / PERSISTENCE
        scanner = scanners[rng.integers(len(scanners))]
        for _ in range(min(int(rng.integers(1, MOST_FILMS + 1)), number - len(films))):
            shown = ill & (rng.random(len(FINDINGS)) < PERSISTENCE)
            image = f"{name}-{len(films):06d}"
            films.append(Film(image, patient, shown.astype(np.uint8), scanner))
    return films


def _sizes(settings: SyntheticSettings) -> list[int]:
    """Return each hospital's number of images: 0.6 to 1.5 times the mean before rounding."""
    shares = generator(settings.seed, "sizes").uniform(0.6, 1.5, settings.hospitals)
    bounds = np.rint(np.cumsum(shares) / shares.sum() * settings.hospitals * settings.images)
    sizes: list[int] = np.diff(bounds, prepend=0).astype(int).tolist()
    return sizes
