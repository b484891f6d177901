"""What hospitals get back at the end of a run: its models, and how they compare with the others."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from common.accounting import Privacy
from common.checkpoint import read_checkpoint
from common.errors import BadInput
from common.findings import FINDINGS
from common.options import Architecture, StrategyChoice
from common.protocol import Keep, RunResult
from common.scores import Scores
from common.state import State, select
from common.wire import fingerprint, pack
from server.rounds.errands import Round
from server.rounds.progress import across
from server.run.folder import RunFolder
from server.run.records import RoundRecord, RunStatus, SharedMean

log = logging.getLogger(__name__)

LEAST_HOSPITALS = 3
"""Hospitals that a mean must be of to be told to them: a hospital that knows a mean of two, and its
own number, knows the other's."""


def shared_mean(validations: Mapping[str, Scores]) -> SharedMean:
    """Return what every hospital may be told of all hospitals' scores of the final model.

    All hospitals count the same, whatever the strategy: a mean in which one hospital counts for
    most would tell its number. There is no mean over the findings either, from which those that are
    left out would follow.

    Args:
        validations: By the hospital's name.
    """
    scores = list(validations.values())
    told = {
        finding: sum(of.auc_by_finding[finding] is not None for of in scores)
        for finding in FINDINGS
    }
    means = across(dict(validations), equal=True).auc_by_finding
    return SharedMean(
        hospitals=len(scores),
        auc_by_finding={
            finding: mean if told[finding] >= LEAST_HOSPITALS else None
            for finding, mean in means.items()
        },
    )


def result_for(name: str, rounds: Sequence[RoundRecord], status: RunStatus) -> RunResult | None:
    """Return what a hospital is told of a run that is done; None: the model was not shared.

    Args:
        name: The hospital's.
        rounds: All of the run.
        status: How the run ended.
    """
    shared = status.shared
    if shared is None:
        return None
    return RunResult(
        rounds=len(rounds),
        best_round=status.best_round or len(rounds),
        hospitals=shared.hospitals,
        auc_by_finding=shared.auc_by_finding,
        took_part=sum(name in record.hospitals for record in rounds),
        rejected=sum(name in record.rejected for record in rounds),
        missing=sum(name in record.missing for record in rounds),
    )


def to_keep(
    out: Round,
    model: Literal["final", "best"],
    number: int,
    strategy: StrategyChoice,
    privacy: Privacy | None,
) -> Round:
    """Return what goes out, with a word that hospitals may keep it.

    Args:
        out: A model that they are to score.
        model: Which one that is.
        number: The round after which it was made.
        strategy: The run's.
        privacy: What the model promises; None: nothing.
    """
    sha256 = fingerprint(pack(select(out.state, out.instruction.training.shared)))
    keep = Keep(model=model, round=number, strategy=strategy, sha256=sha256, privacy=privacy)
    return replace(out, instruction=out.instruction.model_copy(update={"keep": keep}))


def best_model(folder: RunFolder, number: int, architecture: Architecture) -> State | None:
    """Return the model in ``best.pt``; None, with a warning, if that is not a round's model.

    Args:
        folder: The run's.
        number: The round after which it was made.
        architecture: Of the model.
    """
    file = folder.path / "best.pt"
    try:
        state, _ = read_checkpoint(file, architecture, 0)
        if fingerprint(pack(state)) == folder.rounds()[number - 1].model_sha256:
            return state
        reason = f"{file}: not the model of round {number} in rounds.jsonl"
    except BadInput as error:
        reason = str(error)
    log.warning("the best model is not shared: %s", reason)
    return None
