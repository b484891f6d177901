"""Fits the contents of a checkpoint, this project's or another tool's, to the model."""

import logging
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.errors import BadInput
from common.foreign import find
from common.head import choose_head
from common.model import build_model, state_of
from common.one_channel import to_three_channels
from common.options import Architecture, HeadChoice
from common.state import COUNTER, State, is_float, select

log = logging.getLogger(__name__)

WEIGHT, BIAS = "classifier.weight", "classifier.bias"


def fit(
    content: Mapping[str, object],
    architecture: Architecture,
    seed: int,
    head: HeadChoice | None,
    source: str,
    *,
    ours: bool = False,
    trained: bool = False,
) -> tuple[State, str]:
    """Return a whole state, and what was taken: container, prefix, head and what was left out.

    Args:
        content: Tensors by name, possibly in containers and under a prefix.
        architecture: Architecture of the model.
        seed: Seed of a random head.
        head: Whether to keep the file's head; None: ask if its findings cannot be known.
        source: The file, for errors and warnings.
        ours: Whether it is a checkpoint of this project, whose findings are known.
        trained: Whether a random head will not do.

    Raises:
        BadInput: There is no encoder or more than one, a key does not fit, is missing or not
            finite, or the order of the head's findings cannot be known. The message names the key.
    """
    state = state_of(build_model(architecture, seed))
    backbone = select(state, "backbone")
    remedy = f"is this a {architecture}?"
    found = find(content, backbone, source, remedy)
    for name, value in (*found.features.items(), *found.head.items()):
        if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_meta):
            raise BadInput(f"{source}: key {name} is sparse or empty; save dense weights")
    features, note = to_three_channels(found.features)
    for name, value in features.items():
        if name not in backbone:
            raise BadInput(f"{source}: key {name} does not belong to the model; {remedy}")
        state[name] = _fitted(name, value, backbone[name], source, remedy)
    for name in backbone:
        if name not in features and not name.endswith(COUNTER):
            raise BadInput(f"{source}: key {name} is missing; {remedy}")
    width = state[WEIGHT].shape[1]
    linear, decision = choose_head(
        found.head, found.features, head, source, width=width, ours=ours, trained=trained
    )
    if linear is not None:
        state[WEIGHT] = _fitted(WEIGHT, linear.weight, state[WEIGHT], source, remedy)
        state[BIAS] = _fitted(BIAS, linear.bias, state[BIAS], source, remedy)
    if note is not None:
        log.warning("warning: %s: %s", source, note)
    left_out = f"; left out: {', '.join(found.left_out)}" if found.left_out else ""
    return state, f"{found.place}, {decision}{left_out}"


def _fitted(
    name: str, value: object, like: npt.NDArray[np.generic], source: str, remedy: str
) -> npt.NDArray[np.generic]:
    """Return a value as an array of the model's shape and dtype.

    Raises:
        BadInput: It is no tensor, or has another shape, values of another kind, or infinite ones.
    """
    if not isinstance(value, Tensor) or tuple(value.shape) != like.shape:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise BadInput(f"{source}: key {name} is {shape}, not {like.shape}; {remedy}")
    tensor = value.detach()
    if not is_float(like):
        # Halved with all others a counter may be infinite; nothing is computed with it.
        return torch.nan_to_num(tensor.double(), 0, 0, 0).numpy().astype(like.dtype)
    if not tensor.is_floating_point():
        raise BadInput(
            f"{source}: key {name} holds {tensor.dtype}; save the weights as float32, float16 or "
            "bfloat16"
        )
    array: npt.NDArray[np.generic] = tensor.to(torch.from_numpy(like).dtype).numpy().copy()
    if not np.isfinite(array).all():
        raise BadInput(f"{source}: key {name} is not finite; give another checkpoint")
    return array
