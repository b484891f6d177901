"""The shards of the paper's experiments: public films, ten hospitals in each split, the test films.

::

    DATA/public                       for pretraining; no patient of it is at a hospital
    DATA/hospitals.txt                all films of the hospitals
    DATA/{iid,spread,last,dirichlet}/hospital-NN
    DATA/union                        all films of the hospitals in one shard
    DATA/test                         the official test films
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import BadInput
from common.runtime.folders import whole_folder
from common.seeds import generator
from common.shard import create_shard, open_shard
from experiments.paper.scales import Scale
from radiographs.read.nih import read_list, read_metadata
from radiographs.sources import chestxray14, chexpert, synthetic

SPLITS = {
    "iid": ("--partition", "iid"),
    "spread": ("--partition", "noniid", "--no-finding", "spread"),
    "last": ("--partition", "noniid", "--no-finding", "last"),
    "dirichlet": ("--partition", "dirichlet", "--alpha", "0.1"),
}
"""Options of ``flower-data chestxray14`` for each split."""


class Sources(NamedTuple):
    """Where the films are.

    Attributes:
        images: ChestX-ray14's, with the three files that follow: the arguments of
            ``flower-data chestxray14`` of the same names.
        chexpert: The public films: the argument ``--root`` of ``flower-data chexpert``. None: half
            of ChestX-ray14's training patients are public.
    """

    images: Path
    metadata: Path
    train_list: Path
    test_list: Path
    chexpert: Path | None = None


def make_data(scale: Scale, sources: Sources, data: Path) -> None:
    """Write the shards that are not there yet.

    With CheXpert, its frontal films are public, and the hospitals share ChestX-ray14's training
    patients; without it half of these patients are public, drawn at random.

    Raises:
        BadInput: A file cannot be used, or what is there has other public films.
    """
    if data.exists() and (data / "test").is_symlink() != (sources.chexpert is not None):
        how, option = "", "give --chexpert"
        if sources.chexpert is not None:
            how, option = "out", "leave it out"
        raise BadInput(
            f"{data}: made with{how} --chexpert; {option}, or another --root and --results"
        )
    if not data.exists():
        with whole_folder(data) as folder:
            _write_public(scale, sources, folder)
    ten = ("--hospitals", str(scale.hospitals), "--group-by", "patient")
    for split, options in SPLITS.items():
        if not (data / split).exists():
            hospitals = data / "hospitals.txt"
            _convert(scale, sources, hospitals, data / split, (*ten, *options))
    if not (data / "union").exists():
        _write_union(data)


def make_synthetic(scale: Scale, images: int, data: Path) -> None:
    """Write synthetic hospitals in the same places; each split has the same films.

    Args:
        scale: Gives hospitals and size.
        images: Mean films of a hospital.
        data: Folder, new or of an earlier run.
    """
    if not data.exists():
        with whole_folder(data) as folder:
            sizes = {"hospitals": scale.hospitals, "images": images, "size": scale.image_size}
            made = folder / "made"
            synthetic.command(_words({"out": made, **sizes}))
            (made / "pretrain").rename(folder / "public")
            (made / "test").rename(folder / "test")
    for split in SPLITS:
        if not (data / split).exists():
            (data / split).symlink_to("made")
    if not (data / "union").exists():
        _write_union(data)


def halves(sources: Sources) -> tuple[list[str], list[str]]:
    """Return the names of the public and of the hospitals' films; no patient is in both."""
    patient = {row.image: row.patient for row in read_metadata(sources.metadata)}
    names = [name for name in read_list(sources.train_list) if name in patient]
    patients = sorted({patient[name] for name in names})
    order = generator(0, "public half").permutation(len(patients))
    public = {patients[i] for i in order[: len(patients) // 2]}
    return (
        [name for name in names if patient[name] in public],
        [name for name in names if patient[name] not in public],
    )


def _write_public(scale: Scale, sources: Sources, folder: Path) -> None:
    """Write the list of the hospitals' films, the public films and the test films."""
    hospitals = folder / "hospitals.txt"
    if sources.chexpert is not None:
        shutil.copyfile(sources.train_list, hospitals)
        options = {"root": sources.chexpert, "out": folder / "public", "views": "frontal"}
        chexpert.command([*_words({**options, "size": scale.image_size}), "--allow-missing"])
        (folder / "test").symlink_to("iid/test")
        return
    public, private = halves(sources)
    for name, films in (("public", public), ("hospitals", private)):
        (folder / f"{name}.txt").write_text("".join(f"{film}\n" for film in films))
    one = ("--hospitals", "1", "--partition", "iid")
    _convert(scale, sources, folder / "public.txt", folder / "of-public", one)
    (folder / "of-public" / "hospital-00").rename(folder / "public")
    (folder / "of-public" / "test").rename(folder / "test")


def _write_union(data: Path) -> None:
    """Write the films of all hospitals into one shard."""
    shards = [open_shard(path) for path in sorted((data / "spread").glob("hospital-*"))]
    entries = [entry for shard in shards for entry in shard.entries]
    labels = np.concatenate([shard.labelled() for shard in shards])
    size = shards[0].manifest.size
    made = create_shard(
        data / "union", entries=entries, labels=labels, size=size, source="union of the hospitals"
    )
    with made as images:
        images[:] = np.concatenate([shard.images for shard in shards])


def _convert(
    scale: Scale, sources: Sources, train_list: Path, out: Path, options: Sequence[str]
) -> None:
    files = {
        "images": sources.images,
        "metadata": sources.metadata,
        "train-list": train_list,
        "test-list": sources.test_list,
        "out": out,
        "size": scale.image_size,
    }
    chestxray14.command([*_words(files), "--allow-missing", *options])


def _words(options: Mapping[str, object]) -> list[str]:
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]
