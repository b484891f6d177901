"""The models to score: their files, weights and origin, and the seed that keeps films apart."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from common.checkpoint import read_checkpoint
from common.errors import BadInput
from common.options import Architecture, HeadChoice
from common.provenance import Provenance
from common.state import State
from common.wire import fingerprint, pack

log = logging.getLogger(__name__)

IN_A_RUN = ("final.pt", "best.pt")
"""The models of a run's folder, the one to prefer first."""


class Model(NamedTuple):
    """A model to score.

    Attributes:
        file: Where it was read from.
        state: Its weights.
        packed: The same as they travel.
        provenance: Where they come from.
    """

    file: Path
    state: State
    packed: bytes
    provenance: Provenance

    @property
    def sha256(self) -> str:
        """Hash of the packed weights."""
        return fingerprint(self.packed)


def read_models(
    paths: Sequence[Path], architecture: Architecture, head: HeadChoice | None
) -> list[Model]:
    """Return the models in files, or in the folders of runs.

    Args:
        paths: Checkpoints, or folders of runs, whose final model is taken.
        architecture: Of all of them.
        head: ``keep``: the 14 outputs of a file that does not name them are these findings.

    Raises:
        BadInput: A file is not there, is damaged, is of another architecture or cannot score these
            findings; the message names it.
    """
    return [_read(file_of(path), architecture, head) for path in paths]


def file_of(path: Path) -> Path:
    """Return the file of a model, given itself or by its run's folder.

    Raises:
        BadInput: There is no such file or folder, or no model in the folder.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise BadInput(f"{path}: no such file; give a checkpoint, or the folder of a run")
    for name in IN_A_RUN:
        if (path / name).is_file():
            return path / name
    raise BadInput(
        f"{path}: has neither {' nor '.join(IN_A_RUN)}; give a checkpoint, or the folder of a run "
        "that is done"
    )


def _read(file: Path, architecture: Architecture, head: HeadChoice | None) -> Model:
    state, provenance = read_checkpoint(file, architecture, 0, head, trained=True)
    return Model(file, state, pack(state), provenance)


def seeds_of(provenance: Provenance) -> Iterator[int]:
    """Yield the seeds of the federated runs that a model comes from, the last run's first.

    In each of them a hospital has kept films for validation by (seed, patient), and trained on the
    others.
    """
    origin: Provenance | None = provenance
    while origin is not None:
        if origin.run is not None and origin.seed is not None:
            yield origin.seed
        origin = origin.start


def seed_for(models: Sequence[Model], given: int | None) -> int:
    """Return the seed by which hospitals choose the films to score on: that of the models' run.

    With another one they would score a model on films that it was trained on. Warns where that
    cannot be excluded.

    Args:
        models: To score.
        given: By the operator; None: take it from the models.

    Raises:
        BadInput: The models are of runs with different seeds, and none was given.
    """
    seeds = {model.file: list(seeds_of(model.provenance)) for model in models}
    last = {file: found[0] for file, found in seeds.items() if found}
    if given is None and len(set(last.values())) > 1:
        told = ", ".join(f"{file}: {seed}" for file, seed in last.items())
        raise BadInput(
            f"the models are of runs with different seeds ({told}), so that no films were kept "
            "from all of them; score them apart, or give --seed and know that some are scored on "
            "films that they were trained on"
        )
    seed = next(iter(last.values()), 0) if given is None else given
    for file, found in seeds.items():
        if not found:
            log.warning(
                "%s: tells of no federated run; if hospitals have trained it, give that run's "
                "--seed, or it may be scored on films that it was trained on (seed now: %d)",
                file,
                seed,
            )
        elif set(found) != {seed}:
            log.warning(
                "%s: hospitals have trained it with seed %s, and score it with seed %d: it may be "
                "scored on films that it was trained on",
                file,
                ", ".join(map(str, found)),
                seed,
            )
    return seed
