"""What a hospital makes of logits: scores for itself, what it tells, and which model it keeps."""

import torch

from client.counted import CountedScores, counted
from client.examples import Indices
from client.kept import KeptModels
from client.policy import Policy
from common.bootstrap import Films
from common.evaluation import scores_of
from common.findings import count_by_finding
from common.histograms import histograms_of
from common.model import state_of
from common.options import Training
from common.protocol import Instruction
from common.scores import Scores
from common.shard import Shard


def told_of(
    shard: Shard, validation: Indices, logits: torch.Tensor, policy: Policy, training: Training
) -> tuple[CountedScores, dict[str, Scores | str | None]]:
    """Return the hospital's own scores of a model, and the fields of a reply with what it tells.

    Args:
        shard: Of the hospital.
        validation: The validation images.
        logits: float32, N x 14: the model's, of these images, on the CPU.
        policy: The site's.
        training: Beside which the scores are told.
    """
    labels = shard.labelled()[validation]
    positives, negatives = count_by_finding(labels == 1), count_by_finding(labels == 0)
    scores = scores_of(labels, logits)
    own = counted(scores, positives, negatives)
    if not policy.tells_of_validation(training):
        return own, {}
    scores = policy.reported(scores, positives, negatives)
    if scores.loss is None:  # none may be told, there are no images, or the model has diverged
        return own, {"validation": scores}
    told = policy.reported_histograms(histograms_of(labels, logits.numpy()))
    return own, {"validation": scores, "histograms": told.to_text() if told else None}


def keep(
    kept: KeptModels | None,
    instruction: Instruction,
    model: torch.nn.Module,
    shard: Shard,
    validation: Indices,
    logits: torch.Tensor,
) -> bool:
    """Keep a model that the server shares; return whether it is kept.

    Args:
        kept: Keeps it; None: nothing is kept.
        instruction: Says whether it is shared.
        model: The model.
        shard: Of the hospital.
        validation: The validation images.
        logits: float32, N x 14: the model's, of these images, on the CPU.
    """
    if kept is None or instruction.keep is None:
        return False
    patients = [shard.entries[index].patient for index in validation]
    films = Films(shard.labelled()[validation], patients)
    return kept.keep(instruction, state_of(model), films, logits.numpy())
