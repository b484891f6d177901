import numpy as np
import pytest
import torch
from torchvision.models import densenet121

from common.errors import BadInput
from common.model import (
    build_model,
    choose_device,
    load_state,
    set_training_mode,
    state_of,
    to_input,
)
from common.options import Architecture
from tests.support.states import same_bits


def test_densenet121_has_torchvisions_names_and_shapes() -> None:
    own, theirs = build_model("densenet121"), densenet121(num_classes=14)
    assert {n: t.shape for n, t in own.state_dict().items()} == {
        n: t.shape for n, t in theirs.state_dict().items()
    }


def test_densenet_tiny_has_the_same_pattern_and_few_weights() -> None:
    tiny = state_of(build_model("densenet-tiny"))
    assert tiny.keys() <= state_of(build_model("densenet121")).keys()
    assert 1_000 < sum(array.size for array in tiny.values()) < 10_000


def test_input_is_normalised_grey_in_three_equal_channels() -> None:
    images = torch.tensor([[[0, 255], [114, 115]]], dtype=torch.uint8)
    inputs = to_input(images)
    assert inputs.shape == (1, 3, 2, 2)
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs[:, 0], inputs[:, 2])
    expected = [[(0 - 0.449) / 0.226, (1 - 0.449) / 0.226], [-0.00857, 0.00877]]
    torch.testing.assert_close(inputs[0, 1], torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_states_are_copies_in_plain_layout() -> None:
    model = build_model("densenet-tiny")
    state = state_of(model)
    assert all(array.flags.c_contiguous for array in state.values())
    before = state["features.conv0.weight"].copy()
    load_state(model, {name: np.asarray(array + 1) for name, array in state.items()})
    assert np.array_equal(state["features.conv0.weight"], before)
    assert np.array_equal(state_of(model)["features.conv0.weight"], before + 1)


@pytest.mark.parametrize("architecture", ["densenet121", "densenet-tiny"])
def test_linear_mode_trains_the_head_and_freezes_batch_norm(architecture: Architecture) -> None:
    model = build_model(architecture)
    parameters = set_training_mode(model, "linear")
    assert [p.shape[0] for p in parameters] == [14, 14]
    assert not any(m.training for m in model.modules())
    assert len(set_training_mode(model, "finetune")) > 100 or architecture == "densenet-tiny"
    assert all(m.training for m in model.modules())


def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("auto").type in ("cpu", "cuda")
    for requested in ("gpu", "cuda:99"):
        with pytest.raises(BadInput, match=requested):
            choose_device(requested)


def test_weights_can_be_drawn_after_an_accelerator_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: device lost")

    expected = state_of(build_model("densenet-tiny", 3))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", fail)
    with pytest.raises(torch.AcceleratorError):
        torch.manual_seed(0)
    assert same_bits(state_of(build_model("densenet-tiny", 3)), expected)


def test_drawing_weights_leaves_the_global_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    build_model("densenet-tiny", 3)
    assert torch.equal(torch.get_rng_state(), before)
