"""``flower-data site``: makes a shard from a hospital's own DICOM, PNG and JPEG files.

The shard names no patient: an image is a running number in random order, a patient a salted hash.
Only stderr, at the hospital, shows the names of refused files.
"""

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, NamedTuple

import numpy as np
from PIL import Image
from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode, SettingsConfigDict
from tqdm import tqdm

from common.errors import BadInput
from common.findings import UNKNOWN
from common.runtime.cli import Settings, parse
from common.runtime.folders import check_free
from common.shard import IMAGES, SMALLEST, Bytes, Entry
from radiographs.read.chest import Header, Wanted
from radiographs.read.decode import Unreadable, decode, is_picture
from radiographs.read.dicom import examine_dicom, is_dicom, read_dicom, why_dull_dicom
from radiographs.read.extent import extent_of
from radiographs.read.label_map import read_map
from radiographs.read.png import is_sixteen_bit
from radiographs.read.site_labels import Label, Uncertain, finding_named, match, read_labels
from radiographs.read.view import Views, check_view, told_by_table
from radiographs.sources.assumed import Known, assumptions
from radiographs.sources.word_options import ViewWords, Words, chest_words, view_words
from radiographs.write.convert import Part, convert
from radiographs.write.parallel import in_order
from radiographs.write.private import (
    Private,
    new_private,
    private_path,
    read_private,
    write_private,
)


def _findings(value: str | list[str]) -> list[str]:
    """Return the findings of a list separated by commas; from the command line it comes split."""
    texts = [value] if isinstance(value, str) else value
    return [finding_named(name) for text in texts for name in text.split(",")]


class SiteSettings(Settings):
    """Turn a hospital's own DICOM, PNG or JPEG files into its shard, without names."""

    model_config = SettingsConfigDict(
        env_prefix="FLOWER_DATA_",
        cli_prog_name="flower-data site",
        cli_shortcuts={"label-map": "map"},
    )

    images: Path = Field(description="folder of the files; its subfolders are read too")
    labels: Path | None = Field(
        None,
        description="CSV in ChestX-ray14's format, or image,patient and a column for each finding: "
        "0, 1, -1 (uncertain) or empty (unknown); without it the shard is for pretraining",
    )
    allow_unlabelled: Annotated[list[str], NoDecode, BeforeValidator(_findings)] = Field(
        [],
        description="findings that nobody looked for, separated by commas: they need no column "
        "in --labels and are unknown",
    )
    label_map: Path | None = Field(
        None,
        description="CSV with the columns column,finding, or JSON: the finding that a column of "
        "another name in --labels means",
    )
    uncertain: Uncertain = Field(
        "ignore", description="what -1 in --labels is taken for: unknown (ignore), 1 or 0"
    )
    out: Path = Field(description="new folder of the shard; OUT.private.json is written next to it")
    views: Views = Field("frontal", description="projections to take")
    body_part: Words = Field(
        [], description="more words or codes for the chest, separated by commas"
    )
    view_of: ViewWords = Field(
        [],
        description="what words or codes for views mean, separated by commas: WORD=frontal, "
        "WORD=lateral or WORD=other",
    )
    strict: bool = Field(False, description="write nothing if any file is refused")
    salt_from: Path | None = Field(
        None, description="private file of another shard, to use the same hash for a patient"
    )
    size: int = Field(256, ge=SMALLEST, description="pixels along each side")
    workers: int = Field(0, ge=0, description="decoding processes; 0: one for each core")


class Examined(NamedTuple):
    """What a file's header tells, and the reason to refuse the file, or None."""

    header: Header
    problem: str | None


SILENT = Header(patient="", body_part=False, view=False)
"""A file without a header."""


class Film(NamedTuple):
    """An image for the shard.

    Attributes:
        file: Path relative to the images' folder.
        patient: The hospital's number for the patient.
        labels: uint8, 14, 0, 1 or UNKNOWN; None without labels.
        known: Its patient, and whether its body part and view are told.
    """

    file: PurePosixPath
    patient: str
    labels: Bytes | None
    known: Known


def command(arguments: Sequence[str]) -> None:
    """Run the command.

    Raises:
        BadInput: An option or the labels cannot be used, --out is taken, or no file can be used;
            with --strict also if any file is refused.
        FedCXRError: A decoding process died.
    """
    settings = parse(SiteSettings, arguments)
    check_free(settings.out)
    private = _private(settings)
    labels = None
    if settings.label_map is not None and settings.labels is None:
        raise BadInput("--map is for --labels")
    if settings.labels is not None:
        meant = read_map(settings.label_map) if settings.label_map is not None else None
        labels = read_labels(settings.labels, settings.allow_unlabelled, settings.uncertain, meant)
    files, refused = _files(settings)
    films, others = _choose(settings, files, labels)
    refused |= others
    _report(refused)
    if refused and settings.strict:
        found = len(films) + len(refused)
        raise BadInput(f"{len(refused)} of {found} files are refused, and --strict is given")
    if not films:
        raise BadInput(f"{settings.images}: none of {len(refused)} files can be used")
    films.sort(key=lambda film: private.pseudonym(str(film.file)))
    numbers = [f"{number:06d}" for number in range(len(films))]
    names = dict(zip(numbers, (film.file for film in films), strict=True))
    # First the list: a kill must not leave a shard without it.
    _list_files(settings, private, names)
    problems = _convert(settings, films, numbers, private)
    taken = {number: file for number, file in names.items() if file not in problems}
    _list_files(settings, private, taken)
    _report(problems)
    refused |= problems
    dull = _report_dull(settings, taken)
    kept = [film for film in films if film.file not in problems]
    patients = len({film.patient for film in kept})
    print(
        f"{settings.out}: {len(taken)} images of {patients} patients, {len(refused)} files refused"
    )
    _tell_unknown(kept)
    for reason, count in Counter(refused.values()).most_common():
        print(f"{count:>7} refused: {reason}")
    if alone := sum(film.patient == _alone(film.file) for film in kept):
        print(f"{alone:>7} films of no known patient; each is taken as a patient of its own")
    for cause, count in dull.most_common():
        print(f"{count:>7} dull, but in the shard: {cause}")
    for line in assumptions([film.known for film in kept], settings.views):
        print(line)
    print(f"{private_path(settings.out)}: the file of each number; keep it here and secret")


def examine(file: Path, wanted: Wanted) -> Examined:
    """Check a file's first bytes and its header; runs in a worker process."""
    try:
        with file.open("rb") as opened:
            if is_dicom(opened):
                return Examined(examine_dicom(opened, wanted), None)
        return Examined(SILENT, None if is_picture(file) else "neither DICOM, PNG nor JPEG")
    except Unreadable as error:
        return Examined(SILENT, str(error))
    except OSError as error:
        return Examined(SILENT, str(error.strerror))


def read_film(file: Path, size: int) -> Bytes:
    """Return the picture in a DICOM, PNG or JPEG file, uint8, S x S; runs in a worker process.

    Raises:
        Unreadable: The file has no usable picture.
    """
    with file.open("rb") as opened:
        if is_dicom(opened):
            return read_dicom(opened, size)
    return decode(file, size)


def why_dull(file: Path) -> str:
    """Return the likely cause if a file's film uses few of the grey levels."""
    try:
        with file.open("rb") as opened:
            if is_dicom(opened):
                return why_dull_dicom(opened)
            if is_sixteen_bit(opened.read(32)):
                return (
                    "16-bit values that have fewer bits: scale them to 16 bits, or declare them "
                    "in a chunk sBIT"
                )
    except (OSError, Unreadable):
        return "unknown, the file can no longer be read"
    return "the file itself is dark, flat or in few grey levels"


def _private(settings: SiteSettings) -> Private:
    """Return the salt: that of --salt-from, of an earlier try, or a new one."""
    own = private_path(settings.out)
    if settings.salt_from is not None:
        return Private(salt=read_private(settings.salt_from).salt)
    return Private(salt=read_private(own).salt) if own.exists() else new_private()


def _list_files(
    settings: SiteSettings, private: Private, names: Mapping[str, PurePosixPath]
) -> None:
    # Bytes of a name that are not UTF-8 are escaped.
    files = {
        number: os.fsencode(file).decode("utf-8", "backslashreplace")
        for number, file in names.items()
    }
    write_private(private_path(settings.out), private.model_copy(update={"files": files}))


def _files(settings: SiteSettings) -> tuple[list[Path], dict[PurePosixPath, str]]:
    """Return all files below --images except hidden ones and the labels, and the refused paths.

    Links to folders are not followed: they may lead out of the folder or form a cycle.
    """
    root = settings.images
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; --images is the folder of the image files")
    files: list[Path] = []
    refused: dict[PurePosixPath, str] = {}

    def refuse(path: str | Path, reason: str) -> None:
        refused[PurePosixPath(Path(path).relative_to(root).as_posix())] = reason

    for at, folders, names in os.walk(
        root, onerror=lambda error: refuse(error.filename, f"folder: {error.strerror}")
    ):
        folder = Path(at)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (folder / name).is_symlink():
                refuse(folder / name, "links to folders are not followed")
        for file in (folder / name for name in names if not name.startswith(".")):
            try:
                is_labels = settings.labels is not None and file.samefile(settings.labels)
                if file.is_file() and not is_labels:
                    files.append(file)
            except FileNotFoundError:
                refuse(file, "broken link")
            except OSError as error:
                refuse(file, str(error.strerror))
    if not files and not refused:
        raise BadInput(f"{root}: no file in it")
    return sorted(files), refused


def _choose(
    settings: SiteSettings, files: list[Path], labels: Sequence[Label] | None
) -> tuple[list[Film], dict[PurePosixPath, str]]:
    """Return the films for the shard, and the reason for each refused file."""
    relative = [PurePosixPath(file.relative_to(settings.images).as_posix()) for file in files]
    lines = {} if labels is None else match(labels, relative, settings.images)
    films: list[Film] = []
    refused: dict[PurePosixPath, str] = {}
    wanted = Wanted(settings.views, chest_words(settings.body_part), view_words(settings.view_of))
    results = in_order(partial(examine, wanted=wanted), files, settings.workers)
    with (
        closing(results),
        tqdm(total=len(files), unit=" files", desc="reading headers", disable=None) as bar,
    ):
        for file, examined in zip(relative, results, strict=True):
            bar.update()
            try:
                films.append(_film(wanted, file, examined, lines.get(file), labels is not None))
            except Unreadable as error:
                refused[file] = str(error)
    if labels is not None and len(lines) < len(labels):
        print(
            f"{len(labels) - len(lines)} of {len(labels)} lines of {settings.labels} name no file "
            f"below {settings.images}",
            file=sys.stderr,
        )
    return films, refused


def _film(
    wanted: Wanted,
    file: PurePosixPath,
    examined: Examined,
    line: Label | None,
    labelled: bool,
) -> Film:
    if examined.problem is not None:
        raise Unreadable(examined.problem)
    if labelled and line is None:
        raise Unreadable("no line in --labels")
    header = examined.header
    told = [] if line is None else told_by_table(line.view, wanted.view_of)
    view = check_view(told, wanted.views) or header.view
    patient = (line.patient if line is not None else "") or header.patient
    if not patient and labelled:
        raise Unreadable("no patient, neither in the file nor in --labels")
    patient = patient or _alone(file)
    known = Known(patient, header.body_part, view)
    return Film(file, patient, None if line is None else line.labels, known)


def _alone(file: PurePosixPath) -> str:
    """Return a patient of its own for a film of no known patient; no PatientID has a NUL."""
    return f"\0{file}"


def _convert(
    settings: SiteSettings, films: Sequence[Film], numbers: Sequence[str], private: Private
) -> dict[PurePosixPath, str]:
    """Write the shard; return the reason for each file whose pixels cannot be read."""
    labels = [film.labels for film in films if film.labels is not None]
    part = Part(
        name="",
        files=[settings.images / film.file for film in films],
        entries=[
            Entry(number, private.pseudonym(film.patient), "train")
            for number, film in zip(numbers, films, strict=True)
        ],
        labels=np.array(labels) if labels else None,
    )
    problems = convert(
        settings.out,
        [part],
        size=settings.size,
        source=f"site {settings.views}",
        workers=settings.workers,
        read=read_film,
        leave_out=not settings.strict,
        remedy="leave out --strict",
    )
    return {
        PurePosixPath(file.relative_to(settings.images).as_posix()): reason
        for file, reason in problems.items()
    }


def _tell_unknown(films: Sequence[Film]) -> None:
    labels = np.array([film.labels for film in films if film.labels is not None])
    if unknown := int((labels == UNKNOWN).sum()):
        print(f"{unknown} of {labels.size} labels are unknown; flower-data show counts them")


def _report_dull(settings: SiteSettings, taken: Mapping[str, PurePosixPath]) -> Counter[str]:
    """Report films that use little of the grey scale; return how many have each likely cause.

    Unlike a refused file, such a film is named by its number: it is in the shard.
    """
    causes: Counter[str] = Counter()
    pictures = np.load(settings.out / IMAGES, mmap_mode="r")
    for (number, file), picture in zip(taken.items(), pictures, strict=True):
        extent = extent_of(Image.fromarray(picture))
        if extent.dull:
            cause = why_dull(settings.images / file)
            causes[cause] += 1
            print(
                f"dull: image {number}: {extent.levels} grey levels between {extent.low} and "
                f"{extent.high} of 255; likely cause: {cause}",
                file=sys.stderr,
            )
    return causes


def _report(refused: dict[PurePosixPath, str]) -> None:
    for file, reason in refused.items():
        print(f"refused: {file}: {reason}", file=sys.stderr)
