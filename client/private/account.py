"""What a hospital has spent of the privacy of its films, over all runs, and its secret."""

import hashlib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

import client
import common
from client.examples import Indices
from client.policy import Budget, NotAllowed
from client.private.training import noisy_steps
from client.state import Unwritable
from common.accounting import DELTA, Noisy, epsilon_of
from common.errors import BadInput
from common.message import MOST_ROUNDS, Printable, Sha256
from common.model import state_of
from common.options import Precision, Training
from common.protocol import Instruction, PrivacySpent
from common.runtime.cpu import cpu_model
from common.runtime.files import remedy, write_whole
from common.secret_stream import SecretStream
from common.shard import Shard
from common.wire import pack


def _own_code() -> str:
    """Return a hash of this project's code at hospitals; its version may stay as code changes."""
    digest = hashlib.sha256()
    for package in (client, common):
        for file in sorted(Path(package.__path__[0]).rglob("*.py")):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


OWN_CODE = _own_code()
"""Of the code that runs, not of what is put in its place meanwhile."""


class Charge(BaseModel):
    """One round's training, as it was paid for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    purpose: Sha256 = Field(description="hash of all that decides the result, but for the noise")
    run: Printable
    round: int = Field(ge=0, lt=MOST_ROUNDS)
    cost: Noisy


class Spent(BaseModel):
    """The file ``privacy.json`` in the client's ``--state``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = Field(1, ge=1, le=1)
    secret: Sha256 = Field(description="from which the noise is made")
    charges: tuple[Charge, ...] = ()


class PrivacyAccount:
    """Pays for training, and refuses what would cost more than is left.

    A charge is on disk before the training that it pays for begins. The noise is a function of the
    secret and of all that decides the training, rounding too: a round that is repeated on a CPU
    gives the same bytes, tells nothing new and costs nothing, and any other has other noise.

    Args:
        file: ``privacy.json``; None: nothing can be paid for.
        budget: Of the site's policy; None: there is no limit.

    Raises:
        BadInput: The file is damaged, or there is a budget and no file.
    """

    def __init__(self, file: Path | None, budget: Budget | None = None) -> None:
        if budget is not None and file is None:
            raise BadInput(
                "the policy has a privacy budget, which must outlive this process; give --state DIR"
            )
        self._file = file
        self._budget = budget
        self._spent = _read(file) if file is not None else None

    @property
    def spent(self) -> PrivacySpent:
        """What all training so far has cost."""
        charges = self._spent.charges if self._spent is not None else ()
        return PrivacySpent(epsilon=self._epsilon_of(charges), delta=self._delta)

    def check_kept(self, training: Training) -> None:
        """Check that what such training costs would be remembered.

        Raises:
            NotAllowed: It would not: after a restart a repeated round would be a second release.
        """
        if training.dp == "sample":
            self._place()

    def _place(self) -> Path:
        if self._file is None:
            raise NotAllowed(
                "--dp sample needs an account that outlives this process; give the client "
                "--state DIR"
            )
        return self._file

    @property
    def _delta(self) -> float:
        return self._budget.delta if self._budget is not None else DELTA

    def pay_for(
        self,
        instruction: Instruction,
        model: nn.Module,
        shard: Shard,
        chosen: Indices,
        device: torch.device,
        precision: Precision,
    ) -> SecretStream | None:
        """Pay for what an instruction asks for; return its draws, None if it costs nothing.

        A GPU does not fix the order of its sums, so that there each training is paid for.

        Args:
            instruction: The server's.
            model: As it was received.
            shard: The hospital's films.
            chosen: Those that would be trained on.
            device: Where they would be.
            precision: Of the network.

        Raises:
            NotAllowed: It costs more than is left, or there is no file.
            Unwritable: The charge cannot be written.
        """
        training, identity = instruction.training, instruction.identity
        if training.dp != "sample" or instruction.task != "train":
            return None
        purpose = [
            training.model_dump_json().encode(),
            pack(state_of(model)),
            shard.manifest.model_dump_json().encode(),
            chosen.tobytes(),
            " ".join([device.type, precision, *_computed_by()]).encode(),
            b"" if device.type == "cpu" else secrets.token_bytes(32),
        ]
        cost = noisy_steps(training, len(chosen))
        return self.pay(purpose, identity.run, identity.round, cost)

    def pay(self, purpose: Sequence[bytes], run: str, number: int, cost: Noisy) -> SecretStream:
        """Pay for a round's training, unless the same has been paid for; return its draws.

        Args:
            purpose: All that decides the training.
            run: The run's name.
            number: The round's.
            cost: Of the training.

        Raises:
            NotAllowed: It would cost more than the site's budget, or there is no file; nothing is
                paid.
            Unwritable: The charge cannot be written; nothing may be trained.
        """
        file = self._place()
        name = hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in purpose))
        spent = self._spent or Spent(secret=secrets.token_hex(32))
        if all(charge.purpose != name.hexdigest() for charge in spent.charges):
            charge = Charge(purpose=name.hexdigest(), run=run, round=number, cost=cost)
            charges = (*spent.charges, charge)
            self._check(charges)
            spent = spent.model_copy(update={"charges": charges})
            text = spent.model_dump_json(indent=2) + "\n"
            try:
                write_whole(file, lambda to: to.write(text.encode()), mode=0o600)
            except OSError as error:
                raise Unwritable(file, error) from None
            self._spent = spent
        return SecretStream(bytes.fromhex(spent.secret), name.digest())

    def _check(self, charges: Sequence[Charge]) -> None:
        needed = self._epsilon_of(charges)  # without a budget too: it must be known afterwards
        if self._budget is not None and needed > self._budget.epsilon:
            raise NotAllowed(
                f"this round would bring the privacy spent to epsilon {needed:.2f}, and the budget "
                f"is {self._budget.epsilon:g} at delta {self._budget.delta:g}"
            )

    def _epsilon_of(self, charges: Sequence[Charge]) -> float:
        return epsilon_of((charge.cost for charge in charges), self._delta)


def _computed_by() -> tuple[str, ...]:
    """Return the code, the CPU and its threads: with others the same training rounds otherwise."""
    code = OWN_CODE, torch.__version__, np.__version__
    cpu = cpu_model(), torch.backends.cpu.get_cpu_capability(), str(torch.get_num_threads())
    return code + cpu


def _read(file: Path) -> Spent | None:
    """Return what is in the file; None: there is none yet.

    Raises:
        BadInput: It cannot be read: what was spent is then not known.
    """
    try:
        return Spent.model_validate(json.loads(file.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        what = remedy(error, otherwise="see that it can be read")
        raise BadInput(f"{file}: {error.strerror}; {what}") from None
    except (ValueError, RecursionError, ValidationError):
        raise BadInput(
            f"{file}: damaged, so that the privacy spent is not known; restore it from the newest "
            "backup, whose last charge must be of the round that audit.jsonl has answered last"
        ) from None
