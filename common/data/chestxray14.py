"""``flower-data chestxray14``: ChestX-ray14 becomes hospitals and a test shard."""

import shutil
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict
from tqdm import tqdm

from common.cli import Settings, parse
from common.data.decode import decode
from common.data.folder import whole_folder
from common.data.nih import Row, read_list, read_metadata
from common.data.parallel import in_order
from common.data.partition import dirichlet, iid, noniid
from common.data.shard import SMALLEST, Entry, create_shard
from common.errors import BadInput

SUFFIXES = (".png", ".jpg", ".jpeg")
"""Of the files; the names in the metadata end in .png whatever a copy holds."""


class ChestXray14Settings(Settings):
    """Turn ChestX-ray14 images into hospitals and a test shard."""

    model_config = SettingsConfigDict(
        env_prefix="FLOWER_DATA_", cli_prog_name="flower-data chestxray14"
    )

    images: Path = Field(
        description="folder of the files, flat or with images/ or images_001/images/ ... in it"
    )
    metadata: Path = Field(description="Data_Entry_2017*.csv, plain or .gz")
    train_list: Path = Field(description="train_val_list.txt: one image name per line")
    test_list: Path = Field(description="test_list.txt: one image name per line")
    out: Path = Field(description="new folder for hospital-00 ... and test")
    hospitals: int = Field(10, ge=1, description="number of hospitals")
    partition: Literal["iid", "noniid", "dirichlet"] = Field(
        "noniid", description="how hospitals share the images; noniid is the paper's"
    )
    alpha: float = Field(
        0.5, gt=0, allow_inf_nan=False, description="of dirichlet: the smaller, the more skewed"
    )
    group_by: Literal["image", "patient"] = Field(
        "image", description="what stays at one hospital; the paper splits by image"
    )
    size: int = Field(256, ge=SMALLEST, description="pixels along each side")
    seed: int = Field(0, ge=0, description="of the partition")
    workers: int = Field(0, ge=0, description="decoding processes; 0: one for each core")
    allow_missing: bool = Field(False, description="leave out listed images that are not there")

    @model_validator(mode="after")
    def _alpha_is_used(self) -> "ChestXray14Settings":
        if "alpha" in self.model_fields_set and self.partition != "dirichlet":
            raise ValueError("--alpha is for --partition dirichlet")
        return self


class Film(NamedTuple):
    """An image that is there: its line of the metadata and its file."""

    row: Row
    file: Path


class Part(NamedTuple):
    """A shard to be written."""

    name: str
    split: str
    films: list[Film]


def command(arguments: Sequence[str]) -> None:
    """Run the command.

    Raises:
        BadInput: An option, a list, the metadata or an image cannot be used, or --out is taken.
        FedCXRError: A decoding process died.
    """
    settings = parse(ChestXray14Settings, arguments)
    train, test = find_films(settings)
    parts = [*_hospitals(settings, train), Part("test", "test", test)]
    with whole_folder(settings.out) as folder:
        _check_space(folder, (len(train) + len(test)) * settings.size**2)
        _write(settings, folder, parts)
    print(f"{settings.out}: {_how(settings)}, seed {settings.seed}, {settings.size} pixels")
    for part in parts:
        patients = len({film.row.patient for film in part.films})
        print(f"{part.name:<12} {len(part.films):>7} images {patients:>7} patients")


def find_films(settings: ChestXray14Settings) -> tuple[list[Film], list[Film]]:
    """Return the images for training and for the test, in the order of the metadata.

    Raises:
        BadInput: Lists, metadata and files do not fit together; says how many and the first.
    """
    rows = {row.image: row for row in read_metadata(settings.metadata)}
    train, test = set(read_list(settings.train_list)), set(read_list(settings.test_list))
    _check_lists(settings, rows, train, test)
    files = _find_files(settings.images, {Path(name).stem for name in train | test})
    _report_missing(settings, train | test, rows, files)
    films = [
        Film(row, files[Path(name).stem]) for name, row in rows.items() if Path(name).stem in files
    ]
    tested = [film for film in films if film.row.image in test]
    if not tested:
        raise BadInput(f"{settings.test_list}: none of these images is there")
    return [film for film in films if film.row.image in train], tested


def _check_lists(
    settings: ChestXray14Settings, rows: dict[str, Row], train: set[str], test: set[str]
) -> None:
    """Refuse an image in both lists or in none, and a patient on both sides."""
    both_lists = f"{settings.train_list} and {settings.test_list}"
    if both := sorted(train & test):
        raise BadInput(f"{both_lists}: {len(both)} images are in both, first {both[0]}")
    if unlisted := [name for name in rows if name not in train and name not in test]:
        raise BadInput(
            f"{settings.metadata}: {len(unlisted)} images are in neither list, first {unlisted[0]}"
        )
    tested = {row.patient for name, row in rows.items() if name in test}
    if shared := [name for name, row in rows.items() if name in train and row.patient in tested]:
        raise BadInput(
            f"{both_lists}: {len({rows[name].patient for name in shared})} patients are in both, "
            f"first that of {shared[0]}; a patient must not be in training and in the test"
        )


def _find_files(root: Path, stems: set[str]) -> dict[str, Path]:
    """Return the file for each stem that has one."""
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; --images is where the image files are")
    folders = [root, root / "images", *sorted(root.glob("images_*/images"))]
    files: dict[str, Path] = {}
    for file in (file for folder in folders if folder.is_dir() for file in folder.iterdir()):
        if file.suffix.lower() not in SUFFIXES or file.stem not in stems:
            continue
        if file.stem in files:
            raise BadInput(f"{files[file.stem]} and {file}: two files for one image")
        files[file.stem] = file
    return files


def _report_missing(
    settings: ChestXray14Settings, listed: set[str], rows: dict[str, Row], files: dict[str, Path]
) -> None:
    """Refuse, or with --allow-missing count on stderr, listed images without a row or a file."""
    lost = {
        f"line in {settings.metadata}": sorted(listed - rows.keys()),
        f"file below {settings.images}": sorted(n for n in listed if Path(n).stem not in files),
    }
    missing = "; ".join(
        f"{len(names)} of {len(listed)} listed images have no {what}, first {', '.join(names[:3])}"
        for what, names in lost.items()
        if names
    )
    if missing and not settings.allow_missing:
        raise BadInput(f"{missing}; --allow-missing leaves them out")
    if missing:
        print(f"left out: {missing}", file=sys.stderr)


def _hospitals(settings: ChestXray14Settings, films: list[Film]) -> list[Part]:
    """Share the images for training among the hospitals."""
    labels = np.array([film.row.labels for film in films])
    patients = [film.row.patient for film in films] if settings.group_by == "patient" else None
    hospitals, seed = settings.hospitals, settings.seed
    match settings.partition:
        case "noniid":
            assignment = noniid(labels, hospitals, seed, patients)
        case "iid":
            assignment = iid(labels, hospitals, seed, patients)
        case "dirichlet":
            assignment = dirichlet(labels, hospitals, settings.alpha, seed, patients)
    parts = [Part(f"hospital-{hospital:02d}", "train_val", []) for hospital in range(hospitals)]
    for film, hospital in zip(films, assignment.tolist(), strict=True):
        parts[hospital].films.append(film)
    return parts


def _check_space(folder: Path, needed: int) -> None:
    """Refuse before decoding: a memory map that meets a full disk kills the process."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BadInput(f"{folder.parent}: {needed} bytes are needed, {free} are free")


def _write(settings: ChestXray14Settings, folder: Path, parts: list[Part]) -> None:
    files = [film.file for part in parts for film in part.films]
    with (
        closing(in_order(partial(decode, size=settings.size), files, settings.workers)) as pictures,
        tqdm(total=len(files), unit=" images") as progress,
    ):
        for part in parts:
            trains = part.split == "train_val"
            with create_shard(
                folder / part.name,
                entries=[Entry(f.row.image, f.row.patient, part.split) for f in part.films],
                labels=np.array([film.row.labels for film in part.films]),
                size=settings.size,
                source="ChestX-ray14",
                partition=_how(settings) if trains else None,
                seed=settings.seed if trains else None,
            ) as images:
                for i in range(len(part.films)):
                    images[i] = next(pictures)
                    progress.update()


def _how(settings: ChestXray14Settings) -> str:
    alpha = f" alpha {settings.alpha:g}" if settings.partition == "dirichlet" else ""
    return f"{settings.partition}{alpha} by {settings.group_by}"
