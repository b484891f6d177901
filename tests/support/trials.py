"""Made-up trials, and films to score."""

import numpy as np

from common.bootstrap import Films
from experiments.paper.cells import Cell, Environment, TrialLine

HERE = Environment(commit="c", torch="t", cpu="c", gpu=None, precision="auto", threads=1)

RNG = np.random.default_rng(0)

FILMS = Films(
    (RNG.random((500, 14)) < 0.3).astype(np.uint8), [f"p{i}" for i in RNG.integers(0, 60, 500)]
)

NOISE = RNG.normal(size=(500, 14))


def line(cell: Cell, validation: float | None, test: float) -> TrialLine:
    return TrialLine(
        cell=cell,
        rounds=[],
        validation_auc=validation,
        test_auc_by_finding={"Mass": test},
        first_model_sha256=None,
        model_sha256="0",
        hospitals_lost=[],
        hospitals_unusual=[],
        seconds=1.0,
        environment=HERE,
    )
