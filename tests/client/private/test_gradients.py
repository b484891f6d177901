"""The clipped sum of films' gradients, against one film after another through plain autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from client.private.gradients import FILMS_AT_ONCE, clipped_sum
from common.evaluation import loss_of
from common.options import Mode
from tests.support.gradients import films, model_in


def one_after_another(
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    films: tuple[Tensor, Tensor],
    bound: float,
) -> dict[str, Tensor]:
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for film, labels in zip(*films, strict=True):
        loss = loss_of(model(film[None]), labels[None])
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        for name, gradient in zip(parameters, gradients, strict=True):
            total[name] += gradient * min(1.0, bound / float(norm))
    return total


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(["finetune", "linear"]),
    st.integers(1, 2 * FILMS_AT_ONCE + 1),
    st.sampled_from([0.01, 0.4, 100.0]),
    st.integers(0, 99),
)
def test_each_film_is_clipped_by_itself(mode: Mode, count: int, bound: float, seed: int) -> None:
    model, parameters = model_in(mode)
    inputs, labels = films(count, seed)
    found = clipped_sum(model, parameters, inputs, labels, bound, mode)
    expected = one_after_another(model, parameters, (inputs, labels), bound)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=2e-4, atol=bound * 1e-5)


@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_no_film_moves_the_sum_by_more_than_the_bound(mode: Mode) -> None:
    model, parameters = model_in(mode)
    inputs, labels = films(5, 1)
    inputs[2] *= 1000
    bound = 0.05
    whole = clipped_sum(model, parameters, inputs, labels, bound, mode)
    others = [0, 1, 3, 4]
    rest = clipped_sum(model, parameters, inputs[others], labels[others], bound, mode)
    moved = torch.cat([(whole[name] - rest[name]).flatten() for name in whole]).norm()
    assert float(moved) <= bound * 1.001
    assert float(moved) > bound * 0.5


@pytest.mark.parametrize("bias", [-20.0, -60.0, -80.0])
@pytest.mark.parametrize("scale", [1e8, 1e16, 1e24])
def test_a_model_cannot_hide_the_length_of_a_gradient(bias: float, scale: float) -> None:
    """In float32 the square of a small slope is 0, and the features make up for it."""
    model, parameters = model_in("linear")
    normalised = model.get_submodule("features.norm5")
    assert isinstance(normalised, nn.BatchNorm2d)
    with torch.no_grad():
        parameters["classifier.weight"].zero_()
        parameters["classifier.bias"].fill_(bias)
        normalised.weight.mul_(scale)
        normalised.bias.mul_(scale)
    inputs, _ = films(1, 1)
    labels = torch.zeros(1, 14, dtype=torch.uint8)
    found = clipped_sum(model, parameters, inputs, labels, 0.01, "linear")
    exact = model.double()
    expected = one_after_another(exact, parameters, (inputs.double(), labels), 0.01)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient.double(), expected[name], rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("mode", ["finetune", "linear"])
@pytest.mark.parametrize("value", [3e38, float("nan")])
def test_a_film_that_overflows_is_left_out_of_the_sum(mode: Mode, value: float) -> None:
    """A sum that is not finite would tell of the film whatever noise is added."""
    model, parameters = model_in(mode)
    inputs, labels = films(5, 1)
    inputs[2] = value
    found = clipped_sum(model, parameters, inputs, labels, 0.4, mode)
    others = [0, 1, 3, 4]
    rest = clipped_sum(model, parameters, inputs[others], labels[others], 0.4, mode)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, rest[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_films_are_clipped_in_bf16_too(mode: Mode) -> None:
    model, parameters = model_in(mode)
    inputs, labels = films(5, 1)
    found = clipped_sum(model, parameters, inputs, labels, 0.4, mode, "bf16")
    expected = one_after_another(model, parameters, (inputs, labels), 0.4)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0.1, atol=0.02)
