"""``flower-data join``: makes one shard of several, such as last year's films and the new ones.

Whether a patient is kept for validation depends on the patient alone, so nobody changes sides.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.errors import BadInput
from common.runtime.cli import Settings, parse
from common.runtime.folders import check_free
from common.shard import Shard, create_shard, open_shard
from radiographs.write.private import (
    Private,
    check_kept,
    private_path,
    read_private,
    write_private,
)


class JoinSettings(Settings):
    """Make one shard of several; these stay as they are."""

    model_config = SettingsConfigDict(env_prefix="FLOWER_DATA_", cli_prog_name="flower-data join")

    shards: CliPositionalArg[list[Path]] = Field(description="two or more shards")
    out: Path = Field(
        description="new folder of the shard; OUT.private.json is written next to it if the shards "
        "have such files"
    )


def command(arguments: Sequence[str]) -> None:
    """Run the command.

    Raises:
        BadInput: The shards do not fit together, --out is taken, or the private file of another
            shard would be replaced.
    """
    settings = parse(JoinSettings, arguments)
    check_free(settings.out)
    shards = [open_shard(path) for path in settings.shards]
    _check_alike(shards)
    private = _private_of_each(shards)
    entries = [entry for shard in shards for entry in shard.entries]
    if len({entry.image for entry in entries}) < len(entries):
        entries = [entry._replace(image=f"{row:06d}") for row, entry in enumerate(entries)]
    numbers = [entry.image for entry in entries]
    joined = None if private is None else _joined(shards, private, numbers)
    if joined is not None:
        check_kept(private_path(settings.out), joined.salt, joined.files.values())
    _check_no_film_twice(shards)
    if joined is not None:
        # First the list: a kill must not leave a shard without it.
        write_private(private_path(settings.out), joined)
    labels = [shard.labels for shard in shards if shard.labels is not None]
    with create_shard(
        settings.out,
        entries=entries,
        labels=np.concatenate(labels) if labels else None,
        size=shards[0].manifest.size,
        source=", ".join(dict.fromkeys(shard.manifest.source for shard in shards)),
    ) as images:
        first = 0
        for shard in shards:
            images[first : first + len(shard)] = shard.images
            first += len(shard)
    patients = len({entry.patient for entry in entries})
    print(f"{settings.out}: {len(entries)} images of {patients} patients")


def _check_alike(shards: Sequence[Shard]) -> None:
    if len(shards) < 2:
        raise BadInput("give two or more shards to join")
    first = shards[0]
    for shard in shards[1:]:
        if shard.manifest.size != first.manifest.size:
            raise BadInput(
                f"{shard.path}: {shard.manifest.size} pixels along each side, but {first.path} has "
                f"{first.manifest.size}; make one of them again with --size"
            )
        if shard.manifest.labelled != first.manifest.labelled:
            without = first if shard.manifest.labelled else shard
            raise BadInput(f"{without.path}: has no labels, but another shard has; join like ones")


def _private_of_each(shards: Sequence[Shard]) -> list[Private] | None:
    """Return the private file of each shard; None if no shard has one, as public data sets."""
    paths = [private_path(shard.path) for shard in shards]
    there = [path for path in paths if path.exists()]
    if not there:
        return None
    if missing := [path for path in paths if path not in there]:
        raise BadInput(f"{missing[0]}: is missing, but {there[0]} is there; put it back")
    private = [read_private(path) for path in paths]
    for path, of_shard in zip(paths[1:], private[1:], strict=True):
        if of_shard.salt != private[0].salt:
            raise BadInput(
                f"{path}: another salt than in {paths[0]}: a patient of both would be two; make "
                f"that shard again beside it, with --salt-from {paths[0]}"
            )
    for path, of_shard, shard in zip(paths, private, shards, strict=True):
        # It may list more: films that could not be decoded, if site was killed at its end.
        if not of_shard.files.keys() >= {entry.image for entry in shard.entries}:
            raise BadInput(f"{path}: is not that of this shard; put the right one back")
    return private


def _joined(shards: Sequence[Shard], private: Sequence[Private], numbers: Sequence[str]) -> Private:
    """Return a private file of all images, each below the name of the shard that it came with."""
    files = [
        f"{shard.path.resolve().name}/{of_shard.files[entry.image]}"
        for shard, of_shard in zip(shards, private, strict=True)
        for entry in shard.entries
    ]
    return Private(salt=private[0].salt, files=dict(zip(numbers, files, strict=True)))


def _check_no_film_twice(shards: Sequence[Shard]) -> None:
    """Refuse a patient's film that two shards have: it would count twice."""
    seen: dict[tuple[str, bytes], Shard] = {}
    for shard in shards:
        films = [
            (entry.patient, hashlib.sha256(image).digest())
            for entry, image in zip(shard.entries, shard.images, strict=True)
        ]
        if twice := [film for film in films if film in seen]:
            raise BadInput(
                f"{shard.path}: {len(twice)} of its {len(shard)} films are in "
                f"{seen[twice[0]].path} too; make it of the new films alone"
            )
        seen |= dict.fromkeys(films, shard)
