"""The global model, and what goes out of it.

Where models travel encoded, what goes out is not the model. With the model x, and s and e of the
round before, what went out and what has not yet::

    goes out    c = encode(x + e - s)       to those who hold s; to others s' itself, in fp32
    all train   s' = s + decode(c)
    kept        e' = x + e - s'
    next        x' = what the strategy makes of s' and the updates

The first model goes out in fp32. See :mod:`common.codec.change`.
"""

from dataclasses import replace
from typing import Literal

from common.codec.change import sent
from common.message import Identity
from common.protocol import Instruction
from common.secure.settings import SecureSettings
from common.seeds import generator
from common.state import WEIGHTS, State, join, select, split
from common.wire import fingerprint, pack
from server.rounds.ask import Weights
from server.rounds.errands import Change, Round
from server.rounds.plan import Plan
from server.rounds.progress import Progress
from server.strategies.base import Strategy


class GlobalModel:
    """Holds the global model, packed once for all, and makes what goes out in each attempt.

    Args:
        plan: How the run is to go.
        strategy: Says what goes out beside the weights.
        state: The model to begin with.
        sent: What is trained of it, as it went out in the round before; empty: none has.
        residual: What had not gone out with it.

    Attributes:
        state: The model.
        weights: The model as it travels.
        sent: As given, and of each later round; empty where the model travels in fp32.
        residual: The same.
    """

    def __init__(
        self, plan: Plan, strategy: Strategy, state: State, sent: State, residual: State
    ) -> None:
        self._plan = plan
        self._strategy = strategy
        frozen = plan.training.mode == "linear"
        self._backbone = fingerprint(pack(select(state, "backbone"))) if frozen else None
        self.sent, self.residual = sent, residual
        self._sent_sha256 = fingerprint(pack(sent)) if sent else ""
        self._set(state)

    def follow(self, out: Round, after: State) -> None:
        """Go on with what a strategy has made of what went out."""
        if out.sha256 is not None:
            self.sent, self.residual = out.trained, out.residual
            self._sent_sha256 = out.sha256
        self._set({**self.state, **after})

    def _set(self, state: State) -> None:
        self.state = state
        self.weights = Weights(pack(state))

    def to_train(
        self, number: int, attempt: int, progress: Progress, secure: SecureSettings | None = None
    ) -> Round:
        """Return what goes out for a round.

        Args:
            number: The round's.
            attempt: At the round.
            progress: Of the run.
            secure: How updates are summed; None: they come one by one.
        """
        out = self._round("train", number, attempt, progress)
        if secure is not None:
            out = replace(out, instruction=out.instruction.model_copy(update={"secure": secure}))
        extras = self._strategy.sends(out.trained)
        out = replace(out, extras=extras)
        if number and out.instruction.training.wire != "fp32":
            out = self._encoded(out)
        if out.state is self.state and not extras:
            return out
        return replace(out, packed=Weights(pack(join({WEIGHTS: out.state, **extras}))))

    def _encoded(self, out: Round) -> Round:
        """Return a round with the model that all can have who hold the last one that went out."""
        if not self.sent:
            return replace(out, sha256=fingerprint(pack(out.trained)))
        instruction = out.instruction
        rng = generator(instruction.seed, "wire", instruction.identity.round)
        after = join({WEIGHTS: out.trained, **out.extras})
        down = sent(self.sent, after, self.residual, instruction.wire, rng)
        trained = split(down.state)[WEIGHTS]
        return replace(
            out,
            state={**out.state, **trained},
            sha256=fingerprint(pack(trained)),
            change=Change(self._sent_sha256, down.blob),
            residual=down.residual,
        )

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
            self.weights,
            self._backbone,
            plan.norm_limit,
            progress.paces_at(instruction.training.lr),
            counted=progress.counted,
        )
