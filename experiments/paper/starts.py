"""Whether trials that are compared had the same first model, and the same films."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.errors import BadInput
from common.runtime.files import sha256_of
from experiments.paper.cells import FirstModel, Split, TrialLine

REMEDY = "remove these lines from trials.jsonl and run them again"


def data_sha256(data: Path, split: Split) -> str:
    """Return a hash of the films of a split's hospitals, and of the test films.

    Args:
        data: The shards; see :mod:`experiments.paper.data`.
        split: Which of them.
    """
    shards = [*sorted((data / split).glob("hospital-*")), data / "test"]
    hashes = [sha256_of(shard / "manifest.json") for shard in shards]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def check_data(lines: Sequence[TrialLine], data: Path) -> None:
    """Check that all trials had the films that are there, as far as they tell.

    Args:
        lines: Trials of one scale.
        data: The shards.

    Raises:
        BadInput: Some had others.
    """
    told = [line for line in lines if line.data_sha256 is not None]
    for split in sorted({line.cell.split for line in told}):
        if not list((data / split).glob("hospital-*")):
            continue  # a report needs the test films alone
        here = data_sha256(data, split)
        others = [
            line.cell.name for line in told if line.cell.split == split and line.data_sha256 != here
        ]
        if others:
            raise BadInput(
                f"{', '.join(others)}: of other films than those in {data / split} and "
                f"{data / 'test'}; give their --root, or another --results"
            )


def check_starts(lines: Sequence[TrialLine], models: Path | None = None) -> None:
    """Check that all trials of a first model began from one file, as far as they had a file.

    Args:
        lines: Trials of one scale.
        models: Has the file from which further trials begin, ``MODEL.pt``, if it is made; None:
            there are no further trials.

    Raises:
        BadInput: A first model had several files, or another one than it has now.
    """
    by_model: dict[FirstModel, list[TrialLine]] = {}
    for line in lines:
        if line.first_model_sha256 is not None:
            by_model.setdefault(line.cell.first_model, []).append(line)
    for model, trials in by_model.items():
        file = None if models is None else models / f"{model}.pt"
        if file is not None and file.exists():
            right, where = sha256_of(file), str(file)
        else:
            hashes = Counter(str(line.first_model_sha256) for line in trials)
            ((right, _),), where = hashes.most_common(1), "the others"
        others = [line.cell.name for line in trials if line.first_model_sha256 != right]
        if others:
            raise BadInput(
                f"{model}: {', '.join(others)} began from another file than {where} "
                f"(sha256 {right[:12]}); {REMEDY}"
            )
