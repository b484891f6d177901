"""``flower-data chestxray14``: makes hospitals and a test shard from ChestX-ray14."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from common.runtime.cli import Settings, parse
from common.runtime.files import sha256_of
from common.runtime.folders import check_free
from common.shard import SMALLEST, Entry
from radiographs.inspect.show import check_new, write_png
from radiographs.inspect.summary import Summary, shares_figure, tables
from radiographs.read.nih import Row
from radiographs.read.nih_films import find_films
from radiographs.write.assignment import TEST, check_folder, read_assignment, write_assignment
from radiographs.write.convert import Part, convert, tell_left_out
from radiographs.write.partition import NoFinding, dirichlet, iid, noniid, spelled_out

SPLITTING = ("hospitals", "partition", "no_finding", "alpha", "group_by", "seed")
"""Options that are refused when the split is read from a file."""


class ChestXray14Settings(Settings):
    """Turn ChestX-ray14 images into hospitals and a test shard."""

    model_config = SettingsConfigDict(
        env_prefix="FLOWER_DATA_", cli_prog_name="flower-data chestxray14"
    )

    images: Path | None = Field(
        None,
        description="folder of the files, directly or in images/ or images_001/images/ ...",
    )
    metadata: Path = Field(description="Data_Entry_2017*.csv, plain or .gz")
    train_list: Path | None = Field(
        None,
        description="train_val_list.txt: one image name per line; default: all that are not in "
        "--test-list",
    )
    test_list: Path | None = Field(
        None,
        description="test_list.txt: one image name per line; without it there is no test shard",
    )
    out: Path | None = Field(None, description="new folder for hospital-00 ... and test")
    hospitals: int = Field(10, ge=1, description="number of hospitals")
    partition: Literal["iid", "noniid", "dirichlet"] = Field(
        "noniid", description="how images are split between hospitals; noniid is the paper's"
    )
    no_finding: NoFinding = Field(
        "spread",
        description="for noniid: films without a finding are spread over hospitals in proportion "
        "to size, or assigned last, as one more class",
    )
    alpha: float = Field(0.5, gt=0, description="for dirichlet: smaller is more skewed")
    group_by: Literal["image", "patient"] = Field(
        "image", description="what is kept at one hospital; the paper splits by image"
    )
    assignment: Path | None = Field(
        None,
        description="CSV of image,hospital: read if it exists, else written",
    )
    dry_run: bool = Field(
        False, description="print and draw the split only; needs neither --images nor --out"
    )
    figure: Path = Field(
        Path("partition.png"), description="new PNG file for the figure of --dry-run"
    )
    size: int = Field(256, ge=SMALLEST, description="pixels along each side")
    seed: int = Field(0, ge=0, description="seed of the partition")
    workers: int = Field(0, ge=0, description="decoding processes; 0: one for each core")
    allow_missing: bool = Field(
        False,
        description="leave out listed images that have no line in the metadata, are missing from a "
        "folder or cannot be read",
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if "alpha" in self.model_fields_set and self.partition != "dirichlet":
            raise ValueError("--alpha is for --partition dirichlet")
        if "no_finding" in self.model_fields_set and self.partition != "noniid":
            raise ValueError("--no-finding is for --partition noniid")
        if not self.dry_run and (self.images is None or self.out is None):
            raise ValueError("--images and --out are required, except with --dry-run")
        if self.reads_assignment and (
            given := [n for n in SPLITTING if n in self.model_fields_set]
        ):
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(
                f"--assignment {self.assignment} exists and decides the split: leave out "
                f"{options}, or name a new file"
            )
        return self

    @property
    def reads_assignment(self) -> bool:
        """Whether the split is read from a file rather than drawn."""
        return self.assignment is not None and self.assignment.exists()


def command(arguments: Sequence[str]) -> None:
    """Run the command.

    Raises:
        BadInput: An option, a list, the metadata or an image cannot be used, or --out is taken.
        FedCXRError: A decoding process died.
    """
    settings = parse(ChestXray14Settings, arguments)
    if settings.dry_run:
        check_new(settings.figure)
    elif settings.out is not None:
        check_free(settings.out)
    if settings.assignment is not None and not settings.reads_assignment:
        check_folder(settings.assignment, None if settings.dry_run else settings.out)
    rows, tested, files = find_films(
        settings.images,
        settings.metadata,
        settings.train_list,
        settings.test_list,
        settings.allow_missing,
    )
    train = [row for row in rows if row.image not in tested]
    seed = None if settings.reads_assignment else settings.seed
    how, hospitals = _split(settings, train, tested)
    rows_of: dict[str, list[Row]] = {name: [] for name in sorted(set(hospitals))}
    for row, hospital in zip(train, hospitals, strict=True):
        rows_of[hospital].append(row)
    if test := [row for row in rows if row.image in tested]:
        rows_of[TEST] = test
    if not settings.dry_run:
        rows_of = _write(settings, how, seed, rows_of, files)
    summaries = [_summary(settings, name, held) for name, held in rows_of.items()]
    if settings.dry_run:
        write_png(settings.figure, [shares_figure(summaries)])
    if settings.assignment is not None and not settings.assignment.exists():
        write_assignment(settings.assignment, [row.image for row in train], hospitals)
    print("\n".join(tables(summaries)))
    drawn = how if seed is None else f"{spelled_out(how)}, seed {seed}"
    print(f"{settings.figure if settings.dry_run else settings.out}: {drawn}")


def _split(
    settings: ChestXray14Settings, train: list[Row], tested: set[str]
) -> tuple[str, list[str]]:
    """Return a description of the split, and the hospital of each training image."""
    if settings.assignment is not None and settings.reads_assignment:
        images = [row.image for row in train]
        names = read_assignment(settings.assignment, images, tested, settings.allow_missing)
        return f"assignment {sha256_of(settings.assignment)[:12]}", names
    labels = np.array([row.labels for row in train])
    patients = [row.patient for row in train] if settings.group_by == "patient" else None
    hospitals, seed = settings.hospitals, settings.seed
    match settings.partition:
        case "noniid":
            assignment = noniid(labels, hospitals, seed, patients, settings.no_finding)
        case "iid":
            assignment = iid(labels, hospitals, seed, patients)
        case "dirichlet":
            assignment = dirichlet(labels, hospitals, settings.alpha, seed, patients)
    option = ""
    if settings.partition == "dirichlet":
        option = f" alpha {settings.alpha:g}"
    elif settings.partition == "noniid" and settings.no_finding == "spread":
        option = " no-finding spread"  # "last" is not named: see spelled_out
    how = f"{settings.partition}{option} by {settings.group_by}"
    return how, [f"hospital-{hospital:02d}" for hospital in assignment.tolist()]


def _summary(settings: ChestXray14Settings, name: str, rows: list[Row]) -> Summary:
    patients = len({row.patient for row in rows})
    return Summary(name, len(rows), patients, settings.size, np.array([row.labels for row in rows]))


def _write(
    settings: ChestXray14Settings,
    how: str,
    seed: int | None,
    rows_of: dict[str, list[Row]],
    files: dict[str, Path],
) -> dict[str, list[Row]]:
    """Write the shards; return their rows, without those of images that cannot be read."""
    if settings.out is None:
        raise AssertionError("checked with the options")
    parts = [
        Part(
            name,
            [files[Path(row.image).stem] for row in rows],
            [
                Entry(row.image, row.patient, "test" if name == TEST else "train_val")
                for row in rows
            ],
            np.array([row.labels for row in rows]),
            None if name == TEST else how,
            None if name == TEST else seed,
        )
        for name, rows in rows_of.items()
    ]
    problems = convert(
        settings.out,
        parts,
        size=settings.size,
        source="ChestX-ray14",
        workers=settings.workers,
        leave_out=settings.allow_missing,
        remedy="leave them out with --allow-missing",
    )
    tell_left_out(problems, parts)
    return {
        name: [row for row in rows if files[Path(row.image).stem] not in problems]
        for name, rows in rows_of.items()
    }
