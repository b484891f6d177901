"""A model and films of which gradients are taken, film by film."""

import numpy as np
import torch
from torch import Tensor, nn

from common.findings import UNKNOWN
from common.model import build_model, load_state, set_training_mode
from common.options import Mode
from tests.support.hospitals import STATE

SIZE = 40


def model_in(mode: Mode) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    model = build_model("densenet-tiny")
    load_state(model, STATE)
    set_training_mode(model, mode, statistics=False)
    return model, {name: p for name, p in model.named_parameters() if p.requires_grad}


def films(count: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    inputs = torch.from_numpy(rng.normal(size=(count, 3, SIZE, SIZE)).astype(np.float32))
    labels = rng.choice([0, 1, UNKNOWN], size=(count, 14)).astype(np.uint8)
    labels[:, 0] = 1  # each has a known label
    return inputs, torch.from_numpy(labels)
