import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models import DenseNet

from common.errors import BadInput
from common.fit import fit
from common.model import build_model, load_state, to_input
from common.one_channel import EPSILON
from common.state import State

CONV, NORM = "features.conv0.weight", "features.norm0."


def films(count: int = 6, size: int = 64) -> Tensor:
    """Return smooth random films, uint8 N x H x W, with black and white parts."""
    coarse = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    grey = interpolate(coarse, size=(size, size), mode="bicubic")[:, 0]
    return ((grey - 0.5) * 1.6 + 0.5).clamp(0, 1).mul(255).round().byte()


def as_torchxrayvision(images: Tensor) -> Tensor:
    """Return its input: github.com/mlmed/torchxrayvision, datasets.py, normalize(img, 255)."""
    return ((2 * (images.float() / 255) - 1) * 1024).unsqueeze(1)


def one_channel(inputs: Tensor) -> tuple[DenseNet, dict[str, Any]]:
    """Return a network of one channel with the statistics of its inputs, and its state.

    torchxrayvision's DenseNet has torchvision's names, ``in_channels=1``, ``num_classes=18``
    (torchxrayvision/models.py).
    """
    model = build_model("densenet-tiny", 7)
    torch.manual_seed(0)
    model.features.conv0 = nn.Conv2d(1, 8, 7, 2, 3, bias=False)
    model.classifier = nn.Linear(model.classifier.in_features, 18)
    assert model.features.norm0.eps == EPSILON
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean over all batches
    with torch.no_grad():
        model(inputs)
    tensors = dict(model.state_dict())
    model.eval()
    return model, tensors


def read(content: dict[str, Any]) -> State:
    return fit(content, "densenet-tiny", 0, "replace", "c.pt")[0]


def ours(state: State) -> DenseNet:
    model = build_model("densenet-tiny")
    load_state(model, state)
    model.eval()
    return model


def stem(model: DenseNet, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        output: Tensor = model.features.norm0(model.features.conv0(inputs))
    return output


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_three_channels_sum_to_the_one(
    dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = to_input(films())
    model, tensors = one_channel(inputs[:, :1])
    tensors[CONV] = tensors[CONV].to(dtype)
    state = read(tensors)
    channels = state[CONV]
    assert channels.shape == (8, 3, 7, 7)
    np.testing.assert_allclose(channels.sum(1), tensors[CONV][:, 0].float(), rtol=1e-6, atol=1e-8)
    assert np.array_equal(channels[:, 0], channels[:, 2])
    if dtype == torch.float32:
        with torch.no_grad():
            same = model.features(inputs[:, :1]), ours(state).features(inputs)
        torch.testing.assert_close(*same, rtol=1e-3, atol=1e-4)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "c.pt: its first convolution has one channel" in warning
    assert "the file does not tell the range of its input" in warning


def test_torchxrayvisions_range_is_made_up_for(caplog: pytest.LogCaptureFixture) -> None:
    images = films()
    model, tensors = one_channel(as_torchxrayvision(images))
    state = read({**tensors, "op_threshs": torch.ones(18)})
    theirs = stem(model, as_torchxrayvision(images))
    own = stem(ours(state), to_input(images))
    inside = (..., slice(2, -2), slice(2, -2))  # steps of 2 over a border of 3
    torch.testing.assert_close(own[inside], theirs[inside], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(own, theirs, rtol=1e-3, atol=1e-3)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "from -1024 to 1024, as torchxrayvision's" in warning
    assert "except at the outermost 3 pixels" in warning
    np.testing.assert_allclose(state[CONV].sum(1), tensors[CONV][:, 0], rtol=1e-6, atol=1e-8)


def test_a_filter_without_effect_leaves_no_negative_variance() -> None:
    _, tensors = one_channel(as_torchxrayvision(films()))
    variance = tensors[NORM + "running_var"]
    least = int(variance.argmin())  # the others show the range of the input
    tensors[CONV][least] = 0
    tensors[NORM + "running_mean"][least] = 0
    variance[least] = 0
    folded = read(tensors)[NORM + "running_var"]
    assert folded[least] == 0
    assert (folded >= 0).all()
    assert folded.max() < variance.max() / 1000


def test_no_8_bit_input_is_taken_for_torchxrayvisions() -> None:
    generator = torch.Generator().manual_seed(1)
    extreme = torch.zeros(40, 1, 40, 40)
    extreme[::2] = 255  # black films and white ones: no 8-bit input varies more
    for inputs in (films()[:, None].float(), extreme, extreme * torch.rand(40, 1, 40, 40)):
        _, tensors = one_channel(inputs)
        for _ in range(20):
            weight = torch.randn(8, 1, 7, 7, generator=generator)
            weight[0] = 1  # the filter that responds most to even parts
            outputs = nn.functional.conv2d(inputs, weight)
            changed = tensors | {
                CONV: weight,
                NORM + "running_mean": outputs.mean((0, 2, 3)),
                NORM + "running_var": outputs.var((0, 2, 3), correction=0),
            }
            kept = read(changed)[NORM + "running_var"]
            assert np.array_equal(kept, changed[NORM + "running_var"])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_statistics_that_are_not_finite_are_refused(value: float) -> None:
    _, tensors = one_channel(as_torchxrayvision(films()))
    tensors[NORM + "running_var"][2] = value
    with pytest.raises(BadInput, match=r"running_var is not finite"):
        read(tensors)
