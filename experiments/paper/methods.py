"""The federated methods that are compared, and what of each is tuned.

All else is FedAvg's: the first model's learning rate, momentum 0.9 at the hospitals, one local
epoch, all hospitals in each round. FedBN is not among them: each hospital ends with a model of its
own, and there is none for the test films to score.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.paper.cells import Cell, Method


class Recipe(NamedTuple):
    """How a method runs.

    Attributes:
        options: Of ``flower-server``.
        tuned: The option that is tuned; None: nothing is.
        tries: Its values, from which the hospitals' validation chooses.
    """

    options: Mapping[str, str]
    tuned: str | None = None
    tries: tuple[float | None, ...] = (None,)


METHODS: Mapping[Method, Recipe] = {
    "fedavg": Recipe({}),
    "fedprox": Recipe({"local": "fedprox"}, "mu", (0.01, 0.1)),
    "fednova": Recipe({"strategy": "fednova"}),
    "scaffold": Recipe({"strategy": "scaffold"}),
    "feddyn": Recipe({"strategy": "feddyn"}, "alpha", (0.01, 0.1)),
    "fedavgm": Recipe({"strategy": "fedavgm"}, "server_lr", (0.3, 1.0)),
    "fedadagrad": Recipe({"strategy": "fedadagrad"}, "server_lr", (0.003, 0.01, 0.03)),
    "fedadam": Recipe({"strategy": "fedadam"}, "server_lr", (0.003, 0.01, 0.03)),
    "fedyogi": Recipe({"strategy": "fedyogi"}, "server_lr", (0.003, 0.01, 0.03)),
    "median": Recipe({"strategy": "median"}),
}
"""In the order of the table. 0.01 and 1 are the options' defaults, see
:mod:`server.strategies.settings`; the others lie within the ranges of Li et al. 2020, Acar et al.
2021, Hsu et al. 2019 and Reddi et al. 2021."""


def options_of(cell: Cell) -> dict[str, Any]:
    """Return the server's options that make a cell's method."""
    recipe = METHODS[cell.method]
    return {**recipe.options, **({recipe.tuned: cell.setting} if recipe.tuned else {})}
