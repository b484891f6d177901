"""The global model, and what goes out with it."""

from dataclasses import replace
from typing import Literal

from common.protocol import Identity, Instruction
from common.state import WEIGHTS, State, join, select
from common.wire import fingerprint, pack
from server.rounds.errands import Round
from server.rounds.plan import Plan
from server.rounds.progress import Progress
from server.strategies.base import Strategy


class GlobalModel:
    """Holds the global model, packed for all, and makes what goes out in each attempt.

    Args:
        plan: How the run is to go.
        strategy: Says what goes out and comes back beside the weights.
        state: The model to begin with.

    Attributes:
        state: The model.
        packed: The model as one blob.
    """

    def __init__(self, plan: Plan, strategy: Strategy, state: State) -> None:
        self._plan = plan
        self._strategy = strategy
        frozen = plan.training.mode == "linear"
        self._backbone = fingerprint(pack(select(state, "backbone"))) if frozen else None
        self.set(state)

    def set(self, state: State) -> None:
        """Go on with another model."""
        self.state = state
        self.packed = pack(state)

    def to_train(self, number: int, attempt: int, progress: Progress) -> Round:
        """Return what goes out for a round.

        Args:
            number: The round's.
            attempt: At the round.
            progress: Of the run.
        """
        out = self._round("train", number, attempt, progress)
        returns = self._strategy.extra_states
        if not (extras := self._strategy.sends(out.trained)):
            return replace(out, returns=returns)
        packed = pack(join({WEIGHTS: self.state, **extras}))
        return replace(out, packed=packed, extras=extras, returns=returns)

    def to_score(self, number: int, attempt: int, progress: Progress) -> Round:
        """Return what goes out for a model to be scored alone.

        Args:
            number: A round's that has not been.
            attempt: At scoring.
            progress: Of the run.
        """
        return self._round("evaluate", number, attempt, progress)

    def _round(
        self,
        task: Literal["train", "evaluate"],
        number: int,
        attempt: int,
        progress: Progress,
    ) -> Round:
        plan = self._plan
        instruction = Instruction(
            identity=Identity(run=plan.run, round=number, attempt=attempt),
            task=task,
            weights="all",
            architecture=plan.architecture,
            training=plan.training_in(number) if task == "train" else plan.training,
            seed=plan.seed,
            seconds=plan.round_timeout,
        )
        return Round(
            instruction,
            self.state,
            self.packed,
            self._backbone,
            plan.norm_limit,
            progress.paces_at(instruction.training.lr),
            counted=progress.counted,
        )
