"""What a hospital allows the server to ask for; a file at the site, which no server can change."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.grouping import grouped
from common.accounting import DELTA, LARGEST_EPSILON
from common.errors import BadInput, first_problem
from common.findings import UNKNOWN
from common.histograms import Histograms
from common.options import LocalName, Mode, Part, Task, Training
from common.protocol import Instruction
from common.scores import Scores, mean_auc
from common.shard import Bytes


class NotAllowed(Exception):  # noqa: N818 - a verdict, not a fault
    """The site forbids what the server asks for; the message says what."""


class Budget(BaseModel):
    """How much all training, over all runs, may tell of one film."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epsilon: float = Field(gt=0, lt=LARGEST_EPSILON)
    delta: float = Field(DELTA, gt=0, lt=1)
    validation: bool = Field(
        False,
        description="whether scores of validation films, which no noise covers, are told all the "
        "same",
    )


class Policy(BaseModel):
    """A hospital's own limits; without a file there are none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_local_epochs: int | None = Field(None, ge=1, description="epochs of one round")
    max_examples: int | None = Field(None, ge=1, description="images that one round may train on")
    tasks: tuple[Task, ...] = Field(
        ("train", "evaluate"),
        description="evaluate: to score models that are not trained here, as flower-evaluate asks, "
        "and a run at its end",
    )
    modes: tuple[Mode, ...] = ("finetune", "linear")
    local: tuple[LocalName, ...] = Field(
        get_args(LocalName), description="methods of local training, --local of flower-server"
    )
    shared: tuple[Part, ...] = Field(
        get_args(Part), description="parts of the model that may leave, --shared of flower-server"
    )
    min_group: int = Field(
        1,
        ge=1,
        description="a number about fewer images than this is not reported, nor are so few "
        "trained on",
    )
    histograms: bool = Field(True, description="whether histograms of the logits are reported")
    secure_aggregation: bool = Field(
        False, description="whether updates leave under masks alone, --secure-aggregation"
    )
    privacy: Budget | None = Field(
        None, description="of the films' privacy; with it, training needs --dp sample"
    )

    def objection(self, instruction: Instruction, examples: int) -> str | None:
        """Return what an instruction asks for that is not allowed; None: nothing.

        Args:
            instruction: The server's.
            examples: Images that it would train on.
        """
        training = instruction.training
        if instruction.task not in self.tasks:
            return f"to {instruction.task} is not allowed here"
        if instruction.task == "evaluate":
            return None
        if self.secure_aggregation and (instruction.secure is None or instruction.batches):
            return "training without --secure-aggregation, or a canary, is not allowed here"
        if training.mode not in self.modes:
            return f"mode {training.mode} is not allowed here"
        if training.local not in self.local:
            return f"local training {training.local} is not allowed here"
        if training.shared not in self.shared:
            return f"to share {training.shared} of the model is not allowed here"
        if self.privacy is not None and training.dp != "sample":
            return "to train without --dp sample is not allowed here"
        if self.max_local_epochs is not None and training.local_epochs > self.max_local_epochs:
            return (
                f"{training.local_epochs} local epochs are more than the "
                f"{self.max_local_epochs} allowed here"
            )
        if self.max_examples is not None and examples > self.max_examples:
            return f"training on more than {self.max_examples} images is not allowed here"
        if examples < self.min_group:
            return f"training on fewer than {self.min_group} images is not allowed here"
        return None

    def check(self, instruction: Instruction, examples: int) -> None:
        """Check that the site allows an instruction.

        Raises:
            NotAllowed: It does not.
        """
        objection = self.objection(instruction, examples)
        if objection is not None:
            raise NotAllowed(objection)

    def tells_of_validation(self, training: Training) -> bool:
        """Return whether scores of validation films may be told beside such training.

        Noise in the training does not cover them. Where there is a budget it decides, whatever the
        server names as the training; otherwise they are withheld beside ``--dp sample``.
        """
        return training.dp != "sample" if self.privacy is None else self.privacy.validation

    def trainable(self, labels: Bytes) -> Bytes:
        """Return labels, those of a finding that is known in too few images as unknown.

        The head's weights of a finding move along the features of the images in which it is known:
        those of one image would be told by the weights.

        Args:
            labels: uint8, N x 14, 0, 1 or UNKNOWN: of the images to train on.
        """
        few = (labels != UNKNOWN).sum(axis=0) < self.min_group
        return np.where(few, np.uint8(UNKNOWN), labels)

    def reported(
        self, scores: Scores, positives: dict[str, int], negatives: dict[str, int]
    ) -> Scores:
        """Return scores without what rests on too few images.

        Args:
            scores: Of the validation images.
            positives: How many of these have each finding.
            negatives: How many of these are known not to have it.
        """
        if scores.images < self.min_group:
            nothing = dict.fromkeys(scores.auc_by_finding)
            return Scores(images=0, loss=None, auc=None, auc_by_finding=nothing)
        by_finding = {
            finding: auc if min(positives[finding], negatives[finding]) >= self.min_group else None
            for finding, auc in scores.auc_by_finding.items()
        }
        return scores.model_copy(update={"auc": mean_auc(by_finding), "auc_by_finding": by_finding})

    def reported_histograms(self, histograms: Histograms) -> Histograms | None:
        """Return what may be told of histograms; None: nothing.

        Args:
            histograms: Of the validation images.
        """
        if not self.histograms:
            return None
        if self.min_group > 1:
            histograms = grouped(histograms, self.min_group)
        return histograms if histograms.films else None


def read_policy(path: Path | None) -> Policy:
    """Return the policy in a JSON file; without a file one that allows everything.

    Raises:
        BadInput: The file is missing or says something else; names the field.
    """
    if path is None:
        return Policy()
    try:
        return Policy.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; --policy needs a file") from None
    except ValidationError as error:
        raise BadInput(f"{path}: {first_problem(error)}; see docs/deploy.md") from None
    except (ValueError, RecursionError):
        raise BadInput(f"{path}: no JSON; see docs/deploy.md") from None
