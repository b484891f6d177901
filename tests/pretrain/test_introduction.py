"""What a run says before its first step."""

import logging
from pathlib import Path

import pytest
import torch

from common.shard import Shard
from pretrain.introduction import introduce, largest_queue
from pretrain.recipe import MethodName, Recipe
from tests.support.pretraining import CPU, recipe_of
from tests.support.shards import make_shard


def warnings_of(
    recipe: Recipe, shard: Shard, caplog: pytest.LogCaptureFixture, steps: int = 15_000
) -> list[str]:
    caplog.set_level(logging.INFO)
    introduce(recipe, shard, steps=steps, device=CPU)
    assert f"images per step, {steps:,} steps on cpu, learning rate up to " in caplog.text
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_nothing_unwise_is_not_warned_of(shard: Shard, caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(recipe_of("mocov2", queue=8), shard, caplog) == []


def test_a_queue_of_more_than_a_quarter_of_the_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    films = make_shard(tmp_path / "films", images=80, labelled=False)
    assert warnings_of(recipe_of("mocov2", queue=16), films, caplog) == []
    (warning,) = warnings_of(recipe_of("mocov2", queue=24), films, caplog)
    assert "the queue holds 24 keys, more than a quarter of the 80 images" in warning
    assert warning.endswith("give --queue 16")


@pytest.mark.parametrize(
    ("images", "batch", "queue"), [(1480, 64, 320), (1480, 256, 256), (100, 64, 64), (80, 8, 16)]
)
def test_the_queue_to_give(images: int, batch: int, queue: int) -> None:
    assert largest_queue(images, batch) == queue


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("mocov2", "--batch-size 64 --lr 2 --ema 0.99"),
        ("simclr", "--batch-size 64 --lr 2"),
        ("byol", "--batch-size 64 --lr 2 --ema 0.96"),
    ],
)
def test_few_steps(
    method: MethodName, options: str, shard: Shard, caplog: pytest.LogCaptureFixture
) -> None:
    queue = 256 if method == "mocov2" else None
    default = recipe_of(method, batch_size=256, queue=queue)
    (warning,) = warnings_of(default, shard, caplog, steps=500)
    assert f"500 steps are few for these settings; give {options}, " in warning
    caplog.clear()
    assert warnings_of(default, shard, caplog, steps=3000) == []
    ema = {"mocov2": 0.99, "byol": 0.96}.get(method)
    queue = 64 if method == "mocov2" else None
    small = recipe_of(method, batch_size=64, lr=2.0, ema=ema, queue=queue)
    assert warnings_of(small, shard, caplog, steps=500) == []


def test_bf16_on_a_cpu_that_emulates_it(
    shard: Shard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_of("simclr", precision="bf16")
    for instructions in ("avx512_bf16", "amx_bf16", "bf16"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda name=instructions: {name: True})
        assert warnings_of(recipe, shard, caplog) == []
    without = {"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: without)
    assert warnings_of(recipe_of("simclr", precision="fp32"), shard, caplog) == []
    (warning,) = warnings_of(recipe, shard, caplog)
    assert "this CPU has no instructions for bf16" in warning
