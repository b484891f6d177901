"""What a hospital gets back: the models that the server shares, in the client's ``--state``.

::

    models/RUN/
        final.pt     the model after the last round
        final.json   this hospital's own scores of it
        best.pt      the one that the hospitals together scored best, if it is another
        best.json    this hospital's own scores of it
        report.html  how this hospital took part, and how good the models are here
"""

import logging
import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.state import ClientState
from common.bootstrap import Bootstrap, Estimate, Films
from common.checkpoint import write_checkpoint
from common.findings import FINDINGS
from common.message import Sha256
from common.net import SITE_NAME
from common.protocol import Instruction, Keep
from common.provenance import Provenance
from common.readings import FEW
from common.runtime.files import drop_temporary, write_json
from common.scores import Auc
from common.state import State, select
from common.wire import fingerprint, pack

log = logging.getLogger(__name__)

FILES = ("final.pt", "final.json", "best.pt", "best.json", "report.html")

UNFINISHED = ("new-final.pt", "new-best.pt")
"""A model that has not taken the place of the last one."""


class Interval(BaseModel):
    """An AUC with its 95 % interval over patients."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    auc: Auc
    low: Auc | None = Field(description="None: too few films, see FEW")
    high: Auc | None


class OwnScores(BaseModel):
    """A hospital's own scores of a model, on its validation films; they stay at the hospital."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    round: int = Field(description="after which the model was made")
    sha256: Sha256 = Field(description="of the model, packed")
    films: int
    patients: int
    positives: dict[str, int] = Field(description="films with each finding")
    negatives: dict[str, int] | None = Field(
        None, description="films without it; None in files of earlier versions"
    )
    auc_by_finding: dict[str, Interval | None]


class KeptModels:
    """Writes the models of runs, each with this hospital's own scores of it.

    Args:
        state: Of the client; where it has no folder, nothing is kept.
        image_size: Pixels of this hospital's films, which a kept model names.

    Attributes:
        audit: The client's audit log.
    """

    def __init__(self, state: ClientState, image_size: int) -> None:
        self._state = state
        self._image_size = image_size
        self._root = state.folder / "models" if state.folder is not None else None
        self.audit = (state.folder or Path()) / "audit.jsonl"
        for run in self._root.glob("*/") if self._root is not None else ():
            for name in FILES:  # what a killed process left half-written
                drop_temporary(run / name)
            for name in UNFINISHED:
                (run / name).unlink(missing_ok=True)
                drop_temporary(run / name)

    def folder(self, run: str) -> Path | None:
        """Return where the models of a run are, or None.

        None if the client keeps nothing, or if the run's name, which the server has chosen, could
        lead out of the folder.
        """
        if self._root is None or not re.fullmatch(SITE_NAME, run):
            return None
        return self._root / run

    def keep(
        self, instruction: Instruction, state: State, films: Films, logits: npt.NDArray[np.float32]
    ) -> bool:
        """Write a model that the server shares; return whether it was written.

        Never raises, and leaves nothing half-written: the run goes on as it would have.

        Args:
            instruction: Says that the model may be kept.
            state: All of the model, as this hospital holds it.
            films: This hospital's validation films.
            logits: float, N x 14: the model's, of these films.
        """
        keep, run = instruction.keep, instruction.identity.run
        if keep is None:
            return False
        if self._root is None:
            log.info(
                "the server shares the %s model of this run; give --state a folder, and it is kept",
                keep.model,
            )
            return False
        try:
            problem = self._write(instruction, keep, state, films, logits)
        except Exception as error:  # noqa: BLE001 - a gift that is lost ends nothing
            problem = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        if problem is not None:
            log.error("the %s model of run %s is not kept: %s", keep.model, run, problem)
            self._state.note("not kept", run=run, keep=keep.model_dump(), reason=problem)
            return False
        log.info("the %s model is kept in %s", keep.model, self.folder(run))
        self._state.note("kept", run=run, keep=keep.model_dump())
        return True

    def _write(
        self,
        instruction: Instruction,
        keep: Keep,
        state: State,
        films: Films,
        logits: npt.NDArray[np.float32],
    ) -> str | None:
        """Write model and scores; return what is in the way, if anything."""
        run = instruction.identity.run
        if (folder := self.folder(run)) is None:
            return "the run's name cannot be a folder's"
        if fingerprint(pack(select(state, instruction.training.shared))) != keep.sha256:
            return "it does not have the hash that the server announced"
        provenance = Provenance(
            method=keep.strategy,
            local=instruction.training.local,
            run=run,
            round=keep.round,
            seed=instruction.seed,
            privacy=keep.privacy,
            settings={"image_size": self._image_size},
            versions={"fedcxr": version("fedcxr")},
        )
        folder.mkdir(parents=True, exist_ok=True)
        new, model = folder / f"new-{keep.model}.pt", folder / f"{keep.model}.pt"
        scores = folder / f"{keep.model}.json"
        own = own_scores(keep, films, logits, instruction.seed)
        try:
            write_checkpoint(new, state, instruction.architecture, provenance)
            scores.unlink(missing_ok=True)  # never a model beside another's scores
            new.replace(model)
        finally:
            new.unlink(missing_ok=True)
        try:
            write_json(scores, own.model_dump())
        except BaseException:
            model.unlink()
            raise
        if keep.model == "final":  # a run that went on after its end may have another best model
            for stale in folder.glob("best.*"):
                stale.unlink()
        return None


def own_scores(keep: Keep, films: Films, logits: npt.NDArray[np.float32], seed: int) -> OwnScores:
    """Return a hospital's own scores of a model, with intervals over its patients.

    Args:
        keep: Names the model.
        films: The hospital's validation films; there may be none.
        logits: float, N x 14; without AUC if one of them is not finite.
        seed: Of the draws.
    """
    estimates: list[Estimate | None] = [None] * len(FINDINGS)
    if len(films.labels) and np.isfinite(logits).all():
        bootstrap = Bootstrap(films, seed)
        estimates = bootstrap.finding_estimates({seed: bootstrap.auc_by_finding(logits)})
    positives, negatives = ((films.labels == label).sum(axis=0).tolist() for label in (1, 0))
    few = [min(counts) < FEW for counts in zip(positives, negatives, strict=True)]
    return OwnScores(
        round=keep.round,
        sha256=keep.sha256,
        films=len(films.labels),
        patients=len(set(films.patients)),
        positives=dict(zip(FINDINGS, positives, strict=True)),
        negatives=dict(zip(FINDINGS, negatives, strict=True)),
        auc_by_finding=dict(zip(FINDINGS, map(_interval, estimates, few), strict=True)),
    )


def _interval(estimate: Estimate | None, few: bool) -> Interval | None:
    if estimate is None:
        return None
    low, high = (None, None) if few else (estimate.low, estimate.high)
    return Interval(auc=estimate.value, low=low, high=high)


def read_own_scores(folder: Path, model: str) -> OwnScores | None:
    """Return a hospital's own scores of a model that it keeps; None if it does not keep it."""
    try:
        if not (folder / f"{model}.pt").is_file():
            return None
        return OwnScores.model_validate_json((folder / f"{model}.json").read_bytes())
    except (OSError, ValidationError):
        return None
