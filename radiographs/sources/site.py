"""``flower-data site``: makes a shard from a hospital's own DICOM, PNG and JPEG files.

The shard names no patient: an image is a running number in random order, a patient a salted hash.
Only stderr, at the hospital, shows the names of refused files.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode, SettingsConfigDict

from common.errors import BadInput
from common.runtime.cli import Settings, parse
from common.runtime.folders import check_free, unfinished
from common.shard import SMALLEST, Entry
from radiographs.read.chest import Wanted
from radiographs.read.film_file import read_film
from radiographs.read.label_map import read_map
from radiographs.read.site_labels import Uncertain, finding_named, read_labels
from radiographs.read.view import Views
from radiographs.sources.assumed import assumptions
from radiographs.sources.site_films import Film, Refused, choose, files_below, is_alone
from radiographs.sources.site_report import tell_dull, tell_refused, tell_unknown
from radiographs.sources.word_options import ViewWords, Words, chest_words, view_words
from radiographs.write.convert import Part, convert
from radiographs.write.private import (
    Private,
    check_kept,
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


def command(arguments: Sequence[str]) -> None:
    """Run the command.

    Raises:
        BadInput: An option or the labels cannot be used, --out is taken, or no file can be used;
            with --strict also if any file is refused. The private file of another shard would be
            replaced.
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
    files, refused = files_below(settings.images, settings.labels)
    wanted = Wanted(settings.views, chest_words(settings.body_part), view_words(settings.view_of))
    films, others = choose(settings.images, files, labels, wanted, settings.workers)
    refused |= others
    tell_refused(refused)
    if refused and settings.strict:
        found = len(films) + len(refused)
        raise BadInput(f"{len(refused)} of {found} files are refused, and --strict is given")
    if not films:
        raise BadInput(f"{settings.images}: none of {len(refused)} files can be used")
    films.sort(key=lambda film: private.pseudonym(str(film.file)))
    numbers = [f"{number:06d}" for number in range(len(films))]
    names = dict(zip(numbers, (film.file for film in films), strict=True))
    own = private_path(settings.out)
    if not unfinished(settings.out).exists():
        known = [_text(path) for path in (*names.values(), *refused)]
        check_kept(own, private.salt, known, f" with --salt-from {own}")
    # First the list: a kill must not leave a shard without it.
    write_private(own, _listing(private, names))
    problems = _convert(settings, films, numbers, private)
    taken = {number: file for number, file in names.items() if file not in problems}
    write_private(own, _listing(private, taken))
    refused |= problems
    dull = tell_dull(settings.out, settings.images, taken)
    kept = [film for film in films if film.file not in problems]
    patients = len({film.patient for film in kept})
    print(
        f"{settings.out}: {len(taken)} images of {patients} patients, {len(refused)} files refused"
    )
    tell_unknown(kept)
    for reason, count in Counter(refused.values()).most_common():
        print(f"{count:>7} refused: {reason}")
    if alone := sum(map(is_alone, kept)):
        print(f"{alone:>7} films of no known patient; each is taken as a patient of its own")
    for cause, count in dull.most_common():
        print(f"{count:>7} dull, but in the shard: {cause}")
    for line in assumptions([film.known for film in kept], settings.views):
        print(line)
    print(f"{own}: the file of each number; keep it here and secret")


def _private(settings: SiteSettings) -> Private:
    """Return the salt: that of --salt-from, of an earlier try, or a new one."""
    own = private_path(settings.out)
    if settings.salt_from is not None:
        given = Private(salt=read_private(settings.salt_from).salt)
        if not unfinished(settings.out).exists():
            check_kept(own, given.salt)
        return given
    return Private(salt=read_private(own).salt) if own.exists() else new_private()


def _listing(private: Private, names: Mapping[str, PurePosixPath]) -> Private:
    """Return a private file of the same salt with the file of each number."""
    return private.model_copy(
        update={"files": {number: _text(file) for number, file in names.items()}}
    )


def _text(path: PurePosixPath) -> str:
    # Bytes of a name that are not UTF-8 are escaped.
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _convert(
    settings: SiteSettings, films: Sequence[Film], numbers: Sequence[str], private: Private
) -> Refused:
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
        tell=lambda problems: tell_refused(_below(settings.images, problems)),
    )
    return _below(settings.images, problems)


def _below(folder: Path, problems: Mapping[Path, str]) -> Refused:
    """Return what is said of each file, by its path below a folder."""
    return {
        PurePosixPath(file.relative_to(folder).as_posix()): reason
        for file, reason in problems.items()
    }
