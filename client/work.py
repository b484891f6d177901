"""What a hospital does with one instruction: it scores, trains, and says what came of it."""

import math
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import torch

from client.accelerator import sharing
from client.canary import few_to_train_on, peak_memory
from client.cancellation import Cancellation
from client.computing import Computing
from client.counted import CountedScores
from client.examples import Indices, to_train_on
from client.exchange import Begun, Exchange
from client.kept import KeptModels
from client.policy import Policy
from client.private.account import PrivacyAccount
from client.progress import Steps, Tell, tell_nobody
from client.scoring import keep, told_of
from client.secure.sums import SecureSums
from client.training import check_loss, check_weights
from common.evaluation import EVALUATION_BATCH, evaluation_batch
from common.model import state_of
from common.protocol import Instruction, Reply
from common.secret_stream import SecretStream
from common.secure.terms import terms_of
from common.shard import Shard
from common.state import returned
from common.wire import Blob, fingerprint, pack

Checks = tuple[Cancellation, Cancellation]
"""What is asked before each batch of scoring, and before each step of training."""


class Computed(NamedTuple):
    """What came of a turn on the device.

    Attributes:
        logits: Of the received model on validation films.
        loss: Mean training loss, if it trained.
        seconds: It waited, scored and trained.
    """

    logits: torch.Tensor
    loss: float | None
    seconds: dict[str, float]


@dataclass
class Work:
    """Follows instructions with what a hospital has.

    Attributes:
        name: The hospital's.
        shard: Its films.
        policy: What the server may ask for.
        turn: Waits until the device is free, holds it, and yields how many seconds it took.
        exchange: Unpacks models, packs updates, and keeps what is the hospital's own.
        computing: Scores and trains.
        privacy: Pays for training with ``--dp sample``.
        sums: Secure sums that it takes part in.
        kept: Keeps the models that the server shares; None: none is kept.
        scored: Its own scores of the model that it has scored last, if any; they stay here.
    """

    name: str
    shard: Shard
    policy: Policy
    turn: Callable[[Cancellation], AbstractContextManager[float]]
    exchange: Exchange
    computing: Computing
    privacy: PrivacyAccount
    sums: SecureSums
    kept: KeptModels | None
    scored: CountedScores | None = None

    def follow(
        self, instruction: Instruction, blob: Blob, cancellation: Cancellation, tell: Tell
    ) -> tuple[Reply, bytes]:
        """Score the received weights, train them if asked, and return the reply and new weights.

        Args:
            instruction: What to do.
            blob: The weights to do it with.
            cancellation: Checked between batches and while it waits for its turn.
            tell: Is told before each batch how many of the phase are done.

        Raises:
            NotAllowed: The policy forbids it.
            WireError: The blob is not what the instruction says.
            OwnLost: What the hospital kept is lost, and the server does not know.
            Diverged: The training's loss, or a weight, is not finite.
            OutOfRange: The update has no place in a secure sum.
            GivenUp: The result is of no use any more.
            Unwritable: What has to be kept here cannot be written.
        """
        training, validation = self.shard.split(instruction.seed)
        shard, chosen = to_train_on(self.shard, training, instruction, self.policy, self.name)
        self.policy.check(instruction, len(chosen))
        if instruction.task == "train" and instruction.batches is not None:
            return self._try_out(instruction, blob, chosen, validation, cancellation)
        begun = self.exchange.begin(instruction, blob, self.computing.device)
        if instruction.secure is not None:
            before = returned(state_of(begun.model), instruction.training)
            terms = terms_of(instruction, before, self.exchange.model.backbone)
            attempt = self.sums.begin(
                instruction.identity, instruction.secure, instruction.seed, terms
            )
        where = self.computing.device, self.computing.precision
        secret = self.privacy.pay_for(instruction, begun.model, self.shard, chosen, *where)
        checks = self._checks(instruction, len(chosen), len(validation), cancellation, tell)
        films = shard, chosen, validation
        computed = self._compute(instruction, begun, films, checks, cancellation, secret)
        self.scored, scores = told_of(
            self.shard, validation, computed.logits, self.policy, instruction.training
        )
        if instruction.task == "evaluate":
            kept = keep(
                self.kept, instruction, begun.model, self.shard, validation, computed.logits
            )
            return _reply(instruction, computed, **scores, kept=kept), b""
        check_loss(computed.loss, instruction.training)
        state = state_of(begun.model)
        check_weights(state, instruction.training)
        spent = self.privacy.spent if secret is not None else None
        steps = instruction.training.steps(len(chosen))
        weights = self.exchange.end(instruction, state, begun, steps)
        if instruction.secure is not None:
            after = returned(state, instruction.training)
            attempt.hold_change(before, after, len(chosen), computed.loss)
            keys = attempt.keys
            return _reply(instruction, computed, **scores, privacy=spent, keys=keys), b""
        reply = _reply(
            instruction,
            computed,
            **scores,
            examples=len(chosen),
            loss=computed.loss,
            privacy=spent,
            weights=fingerprint(weights),
        )
        return reply, weights

    def _compute(
        self,
        instruction: Instruction,
        begun: Begun,
        films: tuple[Shard, Indices, Indices],
        checks: Checks,
        cancellation: Cancellation,
        secret: SecretStream | None,
    ) -> Computed:
        """Score and train in one turn; the next hospital has the device after that."""
        shard, chosen, validation = films
        scoring, training = checks
        loss = None
        with self.turn(cancellation) as waited, sharing(self.computing.device):
            start = time.monotonic()
            backbone = self.exchange.model.backbone
            logits = self.computing.score(begun.model, validation, backbone, scoring.check)
            evaluated = time.monotonic()
            if instruction.task == "train":
                loss = self.computing.train(
                    begun.model, shard, chosen, instruction, training, begun.local, secret
                )
            trained = time.monotonic()
        took = {"wait": waited, "evaluate": evaluated - start, "train": trained - evaluated}
        return Computed(logits, loss, took)

    def _checks(
        self,
        instruction: Instruction,
        chosen: int,
        validation: int,
        cancellation: Cancellation,
        tell: Tell,
    ) -> Checks:
        """Return what is asked before each batch, and tells how many are done."""
        together = evaluation_batch(self.shard.manifest.size, self.computing.device)
        # Shares would tell the number of batches, and so about how many films there are.
        may_tell = validation >= self.policy.min_group
        batches = math.ceil(validation / together)
        return (
            Steps(cancellation, tell if may_tell else tell_nobody, "scoring", batches),
            Steps(
                cancellation,
                tell if instruction.secure is None else tell_nobody,
                "training",
                instruction.training.steps(chosen),
            ),
        )

    def _try_out(
        self,
        instruction: Instruction,
        blob: Blob,
        training: Indices,
        validation: Indices,
        cancellation: Cancellation,
    ) -> tuple[Reply, bytes]:
        """Score and train on a few batches; return how long it took, and the weights that came.

        Weights that were trained on a few films would tell much of them, and few scores would tell
        of a few films: neither leaves. So it costs no privacy either.
        """
        batches = instruction.batches
        assert batches is not None  # noqa: S101 - or it is no canary
        shard, chosen = few_to_train_on(
            self.shard, training, batches, instruction, self.policy, self.name
        )
        self.policy.check(instruction, len(chosen))
        self.privacy.check_kept(instruction.training)
        begun = self.exchange.begin(instruction, blob, self.computing.device)
        weights = pack(returned(state_of(begun.model), instruction.training))
        films = shard, chosen, validation[: batches * EVALUATION_BATCH]
        secret = SecretStream(secrets.token_bytes(32), b"canary")
        checks = cancellation, cancellation
        computed = self._compute(instruction, begun, films, checks, cancellation, secret)
        check_loss(computed.loss, instruction.training)
        reply = _reply(
            instruction,
            computed,
            examples=len(chosen),
            loss=computed.loss,
            memory=peak_memory(self.computing.device),
            weights=fingerprint(weights),
        )
        return reply, weights


def _reply(instruction: Instruction, computed: Computed, **fields: object) -> Reply:
    return Reply.model_validate(
        {
            "identity": instruction.identity,
            "status": "ok",
            "seconds": computed.seconds,
            **fields,
        }
    )
