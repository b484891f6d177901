from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from common.augment import make_view
from common.model import GREY_MEAN, GREY_STD
from common.shard import Shard
from pretrain.methods.byol import target_momentum
from pretrain.optimizers import learning_rate
from pretrain.recipe import MethodName, PresetName
from tests.support.pretraining import METHODS, Run, recipe_of


@pytest.mark.parametrize("method", METHODS)
def test_networks_see_each_view_of_each_image_by_its_own_draws(
    tmp_path: Path, shard: Shard, method: MethodName
) -> None:
    recipe = recipe_of(method, "upstream", batch_size=8)
    engine = Run(tmp_path / "run", recipe, shard).engine
    (part,) = next(iter(engine.batches.steps(0, 1)))
    views = engine.trainer.views(part)
    assert len(views) == (1 if method == "rotation" else 2)
    for view, draws, settings in zip(views, part.draws, recipe.views, strict=True):
        for number, image in enumerate(part.images):
            grey = make_view(image[None], draws[number : number + 1], 32, settings)[0]
            expected = ((grey - GREY_MEAN) / GREY_STD).expand(3, 32, 32)
            torch.testing.assert_close(view[number], expected, atol=1e-5, rtol=1e-5)
    assert not any(torch.equal(views[0], other) for other in views[1:])


def test_the_rate_rises_and_falls_as_the_recipe_says(tmp_path: Path, shard: Shard) -> None:
    run = Run(tmp_path / "run", recipe_of("simclr", epochs=10), shard)
    run.engine.run()
    lines, trainer = run.metrics(), run.engine.trainer
    peak = 1.2 * 8 / 256
    rates = [learning_rate(line["step"] - 1, trainer.steps, peak, 0.1) for line in lines]
    assert [line["lr"] for line in lines] == pytest.approx(rates)
    assert rates[-1] < rates[0] == peak


def test_a_batch_in_parts_has_as_many_images(tmp_path: Path, shard: Shard) -> None:
    whole = Run(tmp_path / "whole", recipe_of("rotation", epochs=1, batch_size=16), shard)
    parts = Run(
        tmp_path / "parts", recipe_of("rotation", epochs=1, batch_size=16, accumulate=2), shard
    )
    for run in (whole, parts):
        run.engine.run()
    assert [line["step"] for line in whole.metrics()] == [line["step"] for line in parts.metrics()]
    # Other BatchNorm statistics, so not the same curve, but near it.
    first = whole.metrics()[0]["loss"], parts.metrics()[0]["loss"]
    assert first[0] != first[1]
    assert first[0] == pytest.approx(first[1], rel=0.1)


def test_gradients_of_parts_are_averaged(tmp_path: Path, shard: Shard) -> None:
    recipe = recipe_of("rotation", batch_size=16, accumulate=2, preset="paper")
    run = Run(tmp_path / "run", recipe, shard)
    engine = run.engine
    engine.trainer.method.eval()  # without BatchNorm's batches the parts add up exactly
    parts = next(iter(engine.batches.steps(0, 1)))
    engine.trainer.take_step(parts)
    by_parts = [p.grad.clone() for p in engine.trainer.method.parameters() if p.grad is not None]

    other = Run(tmp_path / "other", recipe_of("rotation", batch_size=16, preset="paper"), shard)
    other.engine.trainer.method.eval()
    whole = next(iter(other.engine.batches.steps(0, 1)))
    other.engine.trainer.take_step(whole)
    at_once = [p.grad for p in other.engine.trainer.method.parameters() if p.grad is not None]
    for one, expected in zip(by_parts, at_once, strict=True):
        torch.testing.assert_close(one, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("method", "follower"), [("mocov2", "key_encoder"), ("byol", "target")])
def test_followers_move_before_each_step(
    tmp_path: Path, shard: Shard, method: MethodName, follower: str
) -> None:
    # With ema 0 a follower takes most of a step at once, which no tolerance hides.
    engine = Run(tmp_path / "run", recipe_of(method, ema=0.0), shard).engine
    networks = engine.trainer.method.encoder, getattr(engine.trainer.method, follower)
    steps = engine.batches.steps(0, 2)
    engine.trainer.take_step(next(steps))
    online, before = ([p.detach().clone() for p in network.parameters()] for network in networks)
    engine.trainer.take_step(next(steps))
    start = 0.0 if method == "mocov2" else target_momentum(0.0, 1 / engine.trainer.steps)
    after = list(networks[1].parameters())
    for was, ahead, now in zip(before, online, after, strict=True):
        torch.testing.assert_close(now, start * was + (1 - start) * ahead, atol=1e-7, rtol=1e-6)
    assert any(not torch.equal(was, now) for was, now in zip(before, after, strict=True))


class NoHostSync(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises where a value would be fetched from the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        assert func.overloadpacket not in (
            aten._local_scalar_dense,
            aten.nonzero,
            aten.equal,
            aten.masked_select,
            aten._unique2,
        ), func
        if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_):
            assert all(index is None or index.dtype != torch.bool for index in args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("preset", ["cxr", "upstream"])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_in_a_step_waits_for_the_device(
    tmp_path: Path,
    shard: Shard,
    method: MethodName,
    preset: PresetName,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(tmp_path / "run", recipe_of(method, preset), shard)
    parts = next(iter(run.engine.batches.steps(0, 1)))
    for fetching in ("tolist", "cpu", "numpy", "item"):
        monkeypatch.setattr(torch.Tensor, fetching, None)
    with NoHostSync():  # type: ignore[no-untyped-call]
        run.engine.trainer.take_step(parts)
