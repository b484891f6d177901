"""What becomes of a checkpoint's classifier: kept, replaced by a random one, or asked about.

Fourteen outputs do not make a head ours: CheXpert has fourteen findings too, others in another
order. A head is kept without a question only if its order is known.
"""

import logging
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from common.errors import BadInput
from common.findings import FINDINGS
from common.options import HeadChoice
from common.state import COUNTER

log = logging.getLogger(__name__)

IMAGENET_CLASSES = 1000

CHEXNET_HEAD = "classifier.0.weight"
"""CheXNet's classifier is ``Sequential(Linear, Sigmoid)``. Its findings have the order of
:data:`common.findings.FINDINGS`: ``CLASS_NAMES`` in model.py of
https://github.com/arnoweng/CheXNet."""


class Linear(NamedTuple):
    """A linear classifier: its name in the file, N x width weights and N biases."""

    name: str
    weight: Tensor
    bias: Tensor


def choose_head(
    head: Mapping[str, Tensor],
    features: Mapping[str, object],
    choice: HeadChoice | None,
    source: str,
    *,
    width: int,
    ours: bool,
    trained: bool,
) -> tuple[Linear | None, str]:
    """Return the head to take, or None for a random one, and what was decided, for the log.

    A head that is replaced although it was trained for something is warned of once, except for
    ImageNet's: nobody expects those classes to be kept.

    Args:
        head: What may be a classifier in the file.
        features: The encoder's values.
        choice: What the user wants; None: ask if it cannot be known.
        source: The file, for errors and warnings.
        width: Inputs of the model's classifier.
        ours: Whether the file is a checkpoint of this project.
        trained: Whether a random head will not do.

    Raises:
        BadInput: The order of the findings cannot be known, or the head to keep does not fit.
    """
    if choice == "replace":
        return None, "head replaced"
    linear = _linear(head, width)
    if linear is None or len(linear.bias) != len(FINDINGS):
        why = _misfit(head, linear)
        if trained:
            raise BadInput(
                f"{source}: {why}; give a model with a head for the {len(FINDINGS)} findings, such "
                "as final.pt of a run"
            )
        if choice == "keep":
            raise BadInput(f"--head keep: {source}: {why}; give --head replace")
        if head and not (linear and len(linear.bias) == IMAGENET_CLASSES):
            log.warning("warning: %s: %s; a random one replaces it", source, why)
        return None, f"head random: {why}"
    if ours or choice == "keep":
        return linear, "head kept"
    if _is_chexnets(linear, features):
        return linear, f"head kept: {linear.name}, in CheXNet's order"
    raise BadInput(
        f"{source}: its head has {len(FINDINGS)} outputs ({linear.name}), but not the names of "
        f"their findings (CheXpert has {len(FINDINGS)} others); give --head keep if they are "
        f"ChestX-ray14's from {FINDINGS[0]} to {FINDINGS[-1]}, else "
        f"{'another model' if trained else '--head replace'}"
    )


def _linear(head: Mapping[str, Tensor], width: int) -> Linear | None:
    """Return the head if it is one linear layer that reads the features."""
    names = sorted(head)
    if len(names) != 2 or names[1] != names[0].removesuffix("bias") + "weight":
        return None
    bias, weight = head[names[0]], head[names[1]]
    if bias.ndim != 1 or tuple(weight.shape) != (len(bias), width):
        return None
    return Linear(names[1], weight, bias)


def _misfit(head: Mapping[str, Tensor], linear: Linear | None) -> str:
    if linear is not None:
        return f"its head has {len(linear.bias):,} outputs, not the {len(FINDINGS)} findings"
    if not head:
        return "the file has none"
    name, tensor = next(iter(head.items()))
    shape = " x ".join(map(str, tensor.shape))
    return f"its head is not one linear layer of {len(FINDINGS)} findings ({name}: {shape})"


def _is_chexnets(linear: Linear, features: Mapping[str, object]) -> bool:
    """Return whether a head of 14 is CheXNet's.

    Programs for CheXpert have copied CheXNet's layout. CheXpert came out in 2019, and since torch
    0.4.1, of 2018, BatchNorm counts its batches: weights without a counter are older. A counter of
    zero tells nothing: it is also that of a BatchNorm that was frozen.
    """
    counted = any(name.endswith(COUNTER) for name in features)
    return linear.name.endswith(CHEXNET_HEAD) and not counted
