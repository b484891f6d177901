"""What noise promises: epsilon at delta of Gaussian mechanisms, composed.

Each step adds up vectors of a random part of the members, each member in with the same chance and
its vector no longer than a bound, and adds Gaussian noise (Abadi et al., "Deep Learning with
Differential Privacy", CCS 2016). Neighbours differ by one member that is as it is, or in whose
place one stands that contributes nothing: the number of members is no secret, since rate and steps
follow from it. The arithmetic is Opacus's: the accountant of Gopi et al., "Numerical Composition of
Differential Privacy", NeurIPS 2021, whose upper bound is taken. Its memory and its exponentials end
where epsilon is large: there Mironov's bound stands, "Renyi Differential Privacy", CSF 2017.
"""

import warnings
from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from common.options import LEAST_NOISE

DELTA = 1e-5
"""Where nobody gives another."""

LARGEST_EPSILON = 1e9
"""What is told of any larger one."""

VOID = 200.0
"""Beyond such an epsilon, which promises nothing, a coarser bound will do."""


class Noisy(BaseModel):
    """Steps with the same noise."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    noise: float = Field(ge=LEAST_NOISE, description="standard deviation / the longest vector")
    rate: float = Field(gt=0, le=1, description="the chance of a member to be in a step")
    steps: int = Field(ge=1)


class Privacy(BaseModel):
    """What differential privacy promises of a model, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    dp: Literal["sample", "site"] = Field(
        description="sample: of each film; site: of each hospital"
    )
    clip: float = Field(description="longest gradient of a film, or first longest update")
    noise: float = Field(description="standard deviation of the noise / clip")
    epsilon: float = Field(description="of the hospital that has spent most")
    delta: float = Field(description="the largest of all hospitals")

    def describe(self) -> str:
        """Return it in words."""
        whose, sampling = {
            "sample": ("each film", "each film in a step with the chance batch / films"),
            "site": ("each hospital", "no sampling is counted"),
        }[self.dp]
        return (
            f"differential privacy of {whose}: {self.spent}, "
            f"clipping at {self.clip:g}, noise {self.noise:g} times that, {sampling}"
        )

    @property
    def uncovered(self) -> str:
        """What the promise does not cover, in words."""
        if self.dp == "sample":
            return "how many films each hospital has, and scores that it tells"
        return "what the server itself sees, and all scores"

    @property
    def spent(self) -> str:
        """Epsilon and delta in words."""
        return f"epsilon {self.epsilon:.2f} at delta {self.delta:g}"


class Origin(BaseModel):
    """What of a first model's provenance bears on a promise; all else is passed over."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    run: str | None = None
    privacy: Privacy | None = None
    start: "Origin | None" = None

    def limit(self) -> str | None:
        """Return what a promise leaves out, since this model was trained in runs; None: nothing."""
        if not (runs := list(self._runs())):
            return None
        names = ", and that from ".join(runs)
        return f"of this run's training alone: the first model is from {names}"

    def _runs(self) -> Iterator[str]:
        """Yield the runs that a model is from, the last one first."""
        if self.run is not None:
            how = self.privacy.spent if self.privacy is not None else "without noise"
            yield f"run {self.run} ({how})"
        if self.start is not None:
            yield from self.start._runs()


def epsilon_of(spent: Iterable[Noisy], delta: float) -> float:
    """Return the epsilon of all of the steps together, no more than LARGEST_EPSILON; 0 of none.

    Args:
        spent: In any order.
        delta: In (0, 1).
    """
    steps: dict[tuple[float, float], int] = {}
    for each in spent:
        steps[each.noise, each.rate] = steps.get((each.noise, each.rate), 0) + each.steps
    if not steps:
        return 0.0
    from opacus.accountants import PRVAccountant, RDPAccountant  # type: ignore[import-untyped]

    history = [(noise, rate, count) for (noise, rate), count in sorted(steps.items())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of logarithms of 0, whose terms count nothing
        for accountant in (RDPAccountant(), PRVAccountant()):
            accountant.history = history
            found = float(accountant.get_epsilon(delta=delta))
            if found > VOID:
                break
    return min(found, LARGEST_EPSILON)
