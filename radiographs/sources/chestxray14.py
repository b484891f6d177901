"""``flower-data chestxray14``: makes hospitals and a test shard from ChestX-ray14."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from common.errors import BadInput
from common.runtime.cli import Settings, parse
from common.runtime.files import sha256_of
from common.runtime.folders import check_free
from common.shard import SMALLEST, Entry
from radiographs.inspect.show import check_new, write_png
from radiographs.inspect.summary import Summary, shares_figure, tables
from radiographs.read.decode import PICTURES, is_picture
from radiographs.read.nih import Row, read_list, read_metadata
from radiographs.write.assignment import TEST, read_assignment, write_assignment
from radiographs.write.convert import Part, convert
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
    train_list: Path = Field(description="train_val_list.txt: one image name per line")
    test_list: Path = Field(description="test_list.txt: one image name per line")
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
        False, description="leave out images that are not in all of lists, metadata and folder"
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
    rows, tested, files = find_images(settings)
    train = [row for row in rows if row.image not in tested]
    seed = None if settings.reads_assignment else settings.seed
    how, hospitals = _split(settings, train, tested)
    rows_of: dict[str, list[Row]] = {name: [] for name in sorted(set(hospitals))}
    for row, hospital in zip(train, hospitals, strict=True):
        rows_of[hospital].append(row)
    rows_of[TEST] = [row for row in rows if row.image in tested]
    summaries = [_summary(settings, name, held) for name, held in rows_of.items()]
    if settings.dry_run:
        write_png(settings.figure, [shares_figure(summaries)])
    else:
        _write(settings, how, seed, rows_of, files)
    if settings.assignment is not None and not settings.assignment.exists():
        write_assignment(settings.assignment, [row.image for row in train], hospitals)
    print("\n".join(tables(summaries)))
    drawn = how if seed is None else f"{spelled_out(how)}, seed {seed}"
    print(f"{settings.figure if settings.dry_run else settings.out}: {drawn}")


def find_images(settings: ChestXray14Settings) -> tuple[list[Row], set[str], dict[str, Path]]:
    """Find the images to use.

    Returns:
        The images' lines, in the metadata's order; the names on the test list; the file for each
        stem, empty without --images.

    Raises:
        BadInput: Lists, metadata and files are inconsistent. The message gives the number of
            images and the first one.
    """
    rows = {row.image: row for row in read_metadata(settings.metadata)}
    train, test = set(read_list(settings.train_list)), set(read_list(settings.test_list))
    _check_lists(settings, rows, train, test)
    listed = len(train | test)
    lost = {
        f"of {len(rows)} images in {settings.metadata} are in neither list": [
            name for name in rows if name not in train and name not in test
        ],
        f"of {listed} listed images have no line in {settings.metadata}": sorted(
            (train | test) - rows.keys()
        ),
    }
    files: dict[str, Path] = {}
    if settings.images is not None:
        files = _find_files(settings.images, {Path(name).stem for name in train | test})
        lost[f"of {listed} listed images have no file below {settings.images}"] = sorted(
            name for name in train | test if Path(name).stem not in files
        )
    _report_missing(settings, lost)
    missing = set().union(*lost.values())
    kept = [row for name, row in rows.items() if name not in missing]
    for names, option in ((train, settings.train_list), (test, settings.test_list)):
        if names <= missing:
            raise BadInput(
                f"{option}: none of its images is in the metadata and below --images; "
                "check that they belong together"
            )
    return kept, test, files


def _check_lists(
    settings: ChestXray14Settings, rows: dict[str, Row], train: set[str], test: set[str]
) -> None:
    """Refuse an image in both lists, and a patient in both."""
    both_lists = f"{settings.train_list} and {settings.test_list}"
    if both := sorted(train & test):
        raise BadInput(f"{both_lists}: {len(both)} images are in both, first {both[0]}")
    tested = {row.patient for name, row in rows.items() if name in test}
    if shared := [name for name, row in rows.items() if name in train and row.patient in tested]:
        raise BadInput(
            f"{both_lists}: {len({rows[name].patient for name in shared})} patients are in both, "
            f"first that of {shared[0]}; a patient must not be in training and test"
        )


def _find_files(root: Path, stems: set[str]) -> dict[str, Path]:
    """Return the file for each stem that has one."""
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; --images is the folder of the image files")
    folders = [root, root / "images", *sorted(root.glob("images_*/images"))]
    files: dict[str, Path] = {}
    for file in (file for folder in folders if folder.is_dir() for file in folder.iterdir()):
        # The names in the metadata end in .png, whatever a copy holds.
        if file.stem not in stems:
            continue
        if file.suffix.lower() not in PICTURES and not (file.is_file() and is_picture(file)):
            continue
        if file.stem in files:
            raise BadInput(f"{files[file.stem]} and {file}: two files for one image")
        files[file.stem] = file
    return files


def _report_missing(settings: ChestXray14Settings, lost: dict[str, list[str]]) -> None:
    """Refuse images that are not everywhere; with --allow-missing report them on stderr.

    Args:
        settings: The command's options.
        lost: The images by what is wrong with them.
    """
    missing = "; ".join(
        f"{len(names)} {what}, first {', '.join(names[:3])}"
        for what, names in lost.items()
        if names
    )
    if missing and not settings.allow_missing:
        raise BadInput(f"{missing}; --allow-missing leaves them out")
    if missing:
        print(f"left out: {missing}", file=sys.stderr)


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
) -> None:
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
    convert(
        settings.out, parts, size=settings.size, source="ChestX-ray14", workers=settings.workers
    )
