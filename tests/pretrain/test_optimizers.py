import math

import pytest
import torch
from torch import Tensor, nn

from pretrain.methods.byol import BYOL
from pretrain.optimizers import TRUST, learning_rate, make_optimizer
from pretrain.recipe import OptimizerSettings
from tests.support.pretraining import tiny


def test_the_learning_rate_rises_on_a_line_and_falls_on_a_cosine() -> None:
    rates = [learning_rate(step, 100, 0.4, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.4)
    assert rates[55] == pytest.approx(0.2)
    assert rates[99] == pytest.approx(0.2 * (1 + math.cos(math.pi * 89 / 90)))
    assert rates[99] < 0.001 * 0.4


def test_without_warm_up_it_starts_at_the_peak() -> None:
    assert learning_rate(0, 10, 0.4, 0) == pytest.approx(0.4)


def train_both_ways(settings: OptimizerSettings) -> tuple[list[Tensor], list[Tensor]]:
    """Train with the optimiser and with a loop over single layers."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    nn.init.zeros_(layers[2].weight)  # type: ignore[arg-type]
    slow = [p.detach().clone() for p in layers.parameters()]
    moved = [torch.zeros_like(p) for p in slow]
    optimizer = make_optimizer(layers, settings)
    for number in range(4):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (number + 1)
        rng = torch.Generator().manual_seed(number)
        for parameter in layers.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=rng)
        for i, parameter in enumerate(layers.parameters()):
            assert parameter.grad is not None
            change = parameter.grad.clone()
            if settings.decay_all or parameter.ndim > 1:
                change += settings.weight_decay * slow[i]
                norms = float(slow[i].norm()), float(change.norm())
                if settings.name == "lars" and min(norms) > 0:
                    change *= TRUST * norms[0] / norms[1]
            moved[i] = settings.momentum * moved[i] + change
            slow[i] = slow[i] - 0.1 * (number + 1) * moved[i]
        optimizer.step()
    return [p.detach() for p in layers.parameters()], slow


@pytest.mark.parametrize("decay_all", [True, False])
@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_against_a_slow_reference(name: str, decay_all: bool) -> None:
    settings = OptimizerSettings.model_validate(
        {"name": name, "weight_decay": 0.1, "decay_all": decay_all}
    )
    fast, slow = train_both_ways(settings)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other)


def test_norms_and_biases_are_spared_by_name() -> None:
    method = tiny("byol")
    assert isinstance(method, BYOL)
    optimizer = make_optimizer(method, OptimizerSettings(decay_all=False, weight_decay=0.1))
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0)
    names = {id(p): name for name, p in method.named_parameters()}
    for parameter in spared["params"]:
        name = names[id(parameter)]
        assert ".norm" in name or name.endswith((".bias", "1.weight")), name
    for parameter in decayed["params"]:
        assert names[id(parameter)].endswith("weight")
        assert ".norm" not in names[id(parameter)]
    together = len(decayed["params"]) + len(spared["params"])
    assert together == sum(p.requires_grad for p in method.parameters())
