"""The scales at which the paper's experiments run, each with its reasons."""

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from common.options import Architecture, Mode, Wire
from experiments.paper.cells import Cell, FirstModel, Method, ScaleName, Split, Table
from experiments.paper.methods import METHODS

PRETRAINED: tuple[FirstModel, ...] = ("rotation", "simclr", "byol", "mocov2")
FRACTIONS = (0.5, 0.25, 0.1, 0.05, 0.01)
"""Of the labels, besides all of them; table 3 of the paper."""


Rates = Mapping[tuple[Mode, FirstModel], float]
"""The chosen learning rate for each mode and first model."""

Tuned = Mapping[tuple[Method, FirstModel], float | None]
"""The chosen setting of each method for a first model; None where nothing is tuned."""

OTHER_SPLITS: tuple[Split, ...] = ("iid", "dirichlet")
"""Of the strategies' table, besides the paper's Non-IID, which is the main one."""


class Scale(BaseModel):
    """Data, sizes and rates of a set of experiments."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ScaleName
    reasons: str = Field(description="why these values and not the paper's")
    endpoint: str = Field(description="the primary endpoint, written down before the first trial")
    architecture: Architecture
    image_size: int = Field(description="pixels of the films in the shards")
    hospitals: int = 10
    rounds: int
    batch_size: int
    lrs: dict[Mode, tuple[float, ...]] = Field(
        description="learning rates that each first model may choose from, by the hospitals' "
        "validation on the first seed"
    )
    seeds: int = Field(description="for random and mocov2 in table 2")
    other_seeds: int = Field(description="for everything else")
    pretrain_epochs: int
    pretrain_options: tuple[str, ...] = Field(description="of flower-pretrain, for all methods")
    method_options: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="of flower-pretrain, by method"
    )
    table1: tuple[FirstModel, ...]
    table2: tuple[FirstModel, ...]
    table3: tuple[FirstModel, ...]
    strategies: tuple[FirstModel, ...] = Field(
        ("random", "mocov2"), description="also of the wires' table; in this order"
    )
    methods: tuple[Method, ...] = Field(tuple(METHODS), description="that are compared")

    def first_seeds(self, count: int) -> "Scale":
        """Return the scale with so many of its seeds, the first ones; 0: all of them."""
        if not count:
            return self
        seeds = {name: min(getattr(self, name), count) for name in ("seeds", "other_seeds")}
        return self.model_copy(update=seeds)


ENDPOINT = (
    "Mean AUC, over the findings with at least 20 positive test films, of the model after the last "
    "round on the official test films; MoCo-v2 minus random under table 2."
)

SMALL = Scale(
    name="small",
    reasons=(
        "The 9,538 consecutive films of 128 pixels, at 72 pixels with crops of 63 so that a round "
        "of ten hospitals takes a minute of one core. Half of the train_val patients are public, "
        "the other half are the hospitals: about 380 films for training each. At the paper's rate "
        "0.001 and 6 steps a round nothing would move, so the batch is 32 and the rates are those "
        "at which SGD moves in 10 rounds. In linear mode they reach lower, since at 0.05 and more "
        "random weights, whose features are large, end with a training loss above that of telling "
        "each finding's frequency. Twelve epochs of pretraining take about 15 minutes of "
        "two cores for each method, the same budget for all. Its settings were found before on "
        "other films of the data set, a part of which are of 15 of the test patients."
    ),
    endpoint=ENDPOINT,
    architecture="densenet121",
    image_size=72,
    rounds=10,
    batch_size=32,
    lrs={"finetune": (0.02, 0.05, 0.1), "linear": (0.002, 0.01, 0.05, 0.2, 0.5)},
    seeds=3,
    other_seeds=2,
    pretrain_epochs=12,
    pretrain_options=("--batch-size", "64", "--image-size", "64", "--precision", "bf16"),
    method_options={
        "mocov2": ("--lr", "2", "--queue", "1024", "--ema", "0.99"),
        "simclr": ("--lr", "2", "--temperature", "0.2"),
        "byol": ("--lr", "2", "--ema", "0.96"),
        "rotation": ("--lr", "0.2"),
    },
    table1=("random", *PRETRAINED, "imagenet"),
    table2=(
        "random",
        "mocov2",
        "simclr",
        "byol",
        "rotation",
        "imagenet",
        "statistics",
        "scrambled",
    ),
    table3=("random", "mocov2", "rotation", "imagenet"),
)

SMOKE = SMALL.model_copy(
    update={
        "name": "smoke",
        "reasons": (
            "Synthetic hospitals and a tiny network: every code path in minutes. The numbers mean "
            "nothing. Crops of 70 pixels leave BatchNorm more than one place of a single film, "
            "which is all that a hospital trains on with 1 % of its labels."
        ),
        "architecture": "densenet-tiny",
        "image_size": 80,
        "rounds": 2,
        "lrs": {"finetune": (0.05, 0.1), "linear": (0.2, 0.5)},
        "seeds": 2,
        "other_seeds": 1,
        "pretrain_epochs": 1,
        "pretrain_options": ("--batch-size", "32", "--architecture", "densenet-tiny"),
        "method_options": {},
        "strategies": ("random",),
    }
)

FULL = Scale(
    name="full",
    reasons=(
        "The paper's own values. Its films are those of CheXpert for pretraining, and all of "
        "ChestX-ray14 for the hospitals and the test."
    ),
    endpoint=ENDPOINT,
    architecture="densenet121",
    image_size=256,
    rounds=50,
    batch_size=64,
    lrs={"finetune": (0.001, 0.003, 0.01), "linear": (0.001, 0.003, 0.01)},
    seeds=3,
    other_seeds=2,
    pretrain_epochs=100,
    pretrain_options=("--preset", "paper", "--image-size", "224"),
    table1=SMALL.table1,
    table2=SMALL.table2,
    table3=SMALL.table3,
)

TINY = SMOKE.model_copy(
    update={
        "name": "tiny",
        "reasons": "For tests of the grid: a trial takes a second.",
        "image_size": 48,
        "hospitals": 3,
        "rounds": 1,
        "lrs": {"finetune": (0.05, 0.1), "linear": (0.2,)},
        "table1": ("random", "rotation"),
        "table2": ("random", "rotation", "statistics"),
        "table3": ("random",),
        "methods": ("fedavg", "fedavgm", "median"),
    }
)

SCALES: dict[ScaleName, Scale] = {scale.name: scale for scale in (TINY, SMOKE, SMALL, FULL)}


def cells_of(scale: Scale, table: Table, chosen: Rates, tuned: Tuned | None = None) -> list[Cell]:
    """Return the cells of a table, as far as it is known which they are.

    On the first seed every rate is tried, for each mode and first model. The other cells follow
    once ``chosen`` has the rate for their mode and first model; those of a method once ``tuned``
    has its setting.

    Args:
        scale: Of the experiments.
        table: The table.
        chosen: Rates by mode and first model.
        tuned: Settings by method and first model, of the strategies' table.
    """
    mode: Mode = "linear" if table == "table1" else "finetune"
    models = {
        "table1": scale.table1,
        "table2": scale.table2,
        "table3": scale.table3,
        "bounds": ("random", "mocov2"),
        "strategies": scale.strategies,
        "wires": scale.strategies,
    }[table]
    split: Literal["iid", "spread"] = "iid" if table == "table1" else "spread"

    def cell(model: FirstModel, lr: float, seed: int = 0, **others: object) -> Cell:
        return _cell(scale, model, lr, seed, **{"split": split, "mode": mode, **others})

    found = [cell(model, lr) for model in models for lr in scale.lrs[mode]]
    if table == "strategies":
        return list(dict.fromkeys([*found, *method_cells(scale, chosen, tuned or {})]))
    if table == "wires":
        return list(dict.fromkeys([*found, *wire_cells(scale, chosen)]))
    for model in models:
        if (lr := chosen.get((mode, model))) is None:
            continue
        more = table == "table2" and model in ("random", "mocov2")
        seeds = range(scale.seeds if more else scale.other_seeds)
        found += [cell(model, lr, seed) for seed in seeds]
        if more:
            found += [cell(model, lr, seed, split="last") for seed in range(scale.other_seeds)]
        if table == "table3":
            found += [
                cell(model, lr, seed, label_fraction=fraction)
                for fraction in FRACTIONS
                for seed in seeds
            ]
        if table == "bounds":
            found += [cell(model, lr, seed, hospitals="union") for seed in seeds]
            found += [cell(model, lr, 0, hospitals=h) for h in range(scale.hospitals)]
    return list(dict.fromkeys(found))


def method_cells(scale: Scale, chosen: Rates, tuned: Tuned) -> list[Cell]:
    """Return the cells of the strategies' table, in the order in which they are worth most.

    First what each method is tuned on, the first seed of the paper's Non-IID, by first model; then
    the other seeds there, then the first seed of the other splits.

    Args:
        scale: Of the experiments.
        chosen: Rates by mode and first model; a first model without one has no cell.
        tuned: Settings by method and first model; a method without one has no further cell.
    """
    models = [model for model in scale.strategies if ("finetune", model) in chosen]

    def cell(
        model: FirstModel,
        method: Method,
        setting: float | None,
        split: Split = "spread",
        seed: int = 0,
    ) -> Cell:
        lr = chosen["finetune", model]
        return _cell(scale, model, lr, seed, split=split, method=method, setting=setting)

    tries = [
        cell(model, method, setting)
        for model in models
        for method in scale.methods
        for setting in METHODS[method].tries
    ]
    places: list[tuple[Split, int]] = [("spread", seed) for seed in range(1, scale.seeds)]
    places += [(split, 0) for split in OTHER_SPLITS]
    return tries + [
        cell(model, method, tuned[method, model], split, seed)
        for split, seed in places
        for model in models
        for method in scale.methods
        if (method, model) in tuned
    ]


def wire_cells(scale: Scale, chosen: Rates) -> list[Cell]:
    """Return the cells of the wires' table: first model by first model, and seed by seed.

    Those in fp32 are table 2's.

    Args:
        scale: Of the experiments.
        chosen: Rates by mode and first model; a first model without one has no cell.
    """
    return [
        _cell(scale, model, chosen["finetune", model], seed, wire=wire)
        for model in scale.strategies
        if ("finetune", model) in chosen
        for seed in range(scale.seeds)
        for wire in get_args(Wire)
    ]


def _cell(scale: Scale, model: FirstModel, lr: float, seed: int, **others: object) -> Cell:
    """Return a cell of table 2, but for the others of its fields."""
    fields = {
        "scale": scale.name,
        "first_model": model,
        "split": "spread",
        "mode": "finetune",
        "seed": seed,
        "lr": lr,
        "rounds": scale.rounds,
    }
    return Cell.model_validate({**fields, **others})
