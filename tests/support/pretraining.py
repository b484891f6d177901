"""A run as the command makes it, with the tiny model and few images."""

import json
from pathlib import Path
from typing import Any

import torch

from common.model import build_model
from common.shard import Shard
from pretrain.batches import Batches, Part
from pretrain.engine import Engine
from pretrain.methods import make_method
from pretrain.methods.base import Method
from pretrain.presets import make_recipe
from pretrain.recipe import MethodName, PresetName, Recipe
from pretrain.run_folder import RunFolder

CPU = torch.device("cpu")
METHODS: tuple[MethodName, ...] = ("mocov2", "simclr", "byol", "rotation")


def recipe_of(method: MethodName, preset: PresetName = "cxr", **changes: Any) -> Recipe:
    given = {
        "architecture": "densenet-tiny",
        "batch_size": 8,
        "image_size": 32,
        "epochs": 3,
        "queue": 16 if method == "mocov2" else None,
        **changes,
    }
    return make_recipe(preset, method, **given)


class Run:
    """An engine with its folder, as the command makes them."""

    def __init__(self, path: Path, recipe: Recipe, shard: Shard, **options: Any) -> None:
        path.mkdir(exist_ok=True)
        self.out = path / "checkpoint.pt"
        self.folder = RunFolder(path / "checkpoint.run")
        self.engine = Engine(recipe, shard, self.out, CPU, self.folder, **options)
        self.folder.path.mkdir(exist_ok=True)
        self.folder.begin(recipe.model_dump(mode="json"), self.out, resume=True)
        state = self.folder.read_state()
        if state is not None:
            self.engine.trainer.load(state)

    def metrics(self) -> list[dict[str, Any]]:
        lines = (self.folder.path / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


def curve(run: Run) -> list[tuple[int, float, float]]:
    return [(line["step"], line["loss"], line["embedding_std"]) for line in run.metrics()]


def all_parts(batches: Batches, first: int, last: int) -> list[Part]:
    return [part for step in batches.steps(first, last) for part in step]


def same(one: list[Part], other: list[Part]) -> bool:
    return len(one) == len(other) and all(
        all(map(torch.equal, a, b)) for a, b in zip(one, other, strict=True)
    )


BATCH = 8


def tiny(method: MethodName, seed: int = 0) -> Method:
    queue = 3 * BATCH if method == "mocov2" else None
    recipe = make_recipe(
        "cxr", method, architecture="densenet-tiny", batch_size=BATCH, queue=queue, seed=seed
    )
    return make_method(recipe, build_model("densenet-tiny", seed), BATCH).train()
