"""A hospital in a federation: its shard, its model, and its answers to the server's messages."""

import logging
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path

import torch

from client.cancellation import NEVER, Cancellation, GivenUp
from client.computing import Computing
from client.counted import CountedScores
from client.examples import split_of
from client.exchange import Exchange
from client.kept import KeptModels
from client.own import OwnLost, OwnStates
from client.policy import NotAllowed, Policy
from client.private.account import PrivacyAccount
from client.progress import Tell, tell_nobody
from client.secure.sums import SecureSums
from client.slots import slot
from client.state import Unwritable
from client.training import Diverged
from client.work import Work
from common.errors import FedCXRError
from common.model import is_out_of_memory
from common.options import Precision
from common.protocol import MOST_OWN, OWN_LOST, Greeting, Hello, Instruction, Reply
from common.resident import give_memory_back
from common.secure.fixed import OutOfRange
from common.secure.keys import Signer
from common.shard import Shard
from common.wire import Blob

log = logging.getLogger(__name__)


class Hospital:
    """Holds a shard for the length of a run and does what the server asks of it.

    Args:
        name: How the hospital is known to the server.
        shard: A labelled shard.
        device: Where to compute.
        slots: How many clients on this machine may compute at once.
        slots_folder: The folder through which they take turns; None: no turns.
        policy: What the server may ask for.
        precision: Of the training; None: bf16 where the device has instructions for it. Models are
            scored in fp32.
        kept: Keeps the models that the server shares; None: none is kept.
        own: Keeps what is the hospital's own from round to round; default: in memory.
        compiled: Whether to compile the training.
        privacy: Pays for training with ``--dp sample``; default: none can be paid for.
        signer: Returns who signs keys for it in secure sums; None: nobody does.

    Attributes:
        sums: Secure sums that it takes part in.
    """

    def __init__(
        self,
        name: str,
        shard: Shard,
        device: torch.device,
        slots: int = 1,
        slots_folder: Path | None = None,
        policy: Policy | None = None,
        precision: Precision | None = "fp32",
        kept: KeptModels | None = None,
        own: OwnStates | None = None,
        compiled: bool = False,
        privacy: PrivacyAccount | None = None,
        signer: Callable[[], Signer | None] = lambda: None,
    ) -> None:
        shard.labelled()
        self._policy = policy or Policy()
        self._process = secrets.token_hex(16)
        self.name = name
        self._shard = shard
        self._greeting: Greeting | None = None
        self._exchange = Exchange(own or OwnStates(None), name)
        self._computing = Computing(name, shard, device, precision, compiled)
        self._slots_folder, self._slots = slots_folder, slots
        self.sums = SecureSums(name, signer)
        self._work = Work(
            name=name,
            shard=shard,
            policy=self._policy,
            turn=self._turn,
            exchange=self._exchange,
            computing=self._computing,
            privacy=privacy or PrivacyAccount(None),
            sums=self.sums,
            kept=kept,
        )

    @property
    def device(self) -> torch.device:
        """Where it computes; the CPU once the accelerator has failed for good."""
        return self._computing.device

    @property
    def precision(self) -> Precision:
        """In which it trains on its device."""
        return self._computing.precision

    @property
    def scored(self) -> CountedScores | None:
        """Its own scores of the model that it has scored last, if any; they stay here."""
        return self._work.scored

    def forget_scores(self) -> None:
        """Forget its scores, since another model has come."""
        self._work.scored = None

    def _turn(self, cancellation: Cancellation) -> AbstractContextManager[float]:
        """Wait for a turn; without the accelerator, beside those who have turns on it."""
        folder = self._slots_folder
        if folder is not None and self._computing.fell_back:
            folder /= "cpu"
        return slot(folder, self._slots, cancellation)

    def greet(self, greeting: Greeting) -> Hello:
        """Introduce the hospital to a run; instructions must be of that run from now on.

        Raises:
            BadInput: No image is left for training, too few to be told of, or too few to train on.
        """
        training, validation = split_of(self._shard, greeting, self._policy)
        self._greeting = greeting
        self._exchange.in_sums = greeting.secure
        secret = greeting.secure or self._policy.secure_aggregation
        return Hello(
            site=self.name,
            version=version("fedcxr"),
            examples=1 if secret else len(training),
            validation=len(validation) if len(validation) >= self._policy.min_group else 0,
            image_size=self._shard.manifest.size,
            backbone=self._exchange.model.backbone,
            holds=self._exchange.model.holds,
            process=self._process,
            own=self._exchange.own.rounds(greeting.run)[-MOST_OWN:],
        )

    def answer(
        self,
        instruction: Instruction,
        blob: Blob,
        cancellation: Cancellation = NEVER,
        tell: Tell = tell_nobody,
    ) -> tuple[Reply, bytes]:
        """Score the received weights, train them if asked, and return the reply and new weights.

        A fault of its own raises nothing, but for those below: a failed reply carries the
        exception's type alone, since its text may hold patient data; this hospital's log has it. If
        the accelerator fails, the CPU takes over: for this round, since memory may be free again in
        the next one, or for good if the accelerator is of no more use to this process.

        Args:
            instruction: What to do.
            blob: The weights to do it with.
            cancellation: Checked between batches and while it waits for a slot.
            tell: Is told before each batch how many of the phase are done.

        Raises:
            Unwritable: What has to be kept here cannot be written.
        """
        try:
            try:
                return self._answer(instruction, blob, cancellation, tell)
            except RuntimeError as error:  # of torch; out of memory and cuDNN's are such
                if self.device.type == "cpu":
                    raise
                log.error("%s failed (%s); the CPU takes over", self.device, type(error).__name__)
                log.debug("the fault", exc_info=True)
                lost = isinstance(error, torch.AcceleratorError)
                for_good = lost and not is_out_of_memory(error)
            # Retry outside `except`: the traceback keeps GPU tensors alive.
            return self._answer_on_the_cpu(instruction, blob, cancellation, tell, for_good)
        except NotAllowed as objection:
            log.error("round %d refused: %s", instruction.identity.round, objection)
            reason = f"against the site's policy: {objection}"
        except Diverged as diverged:
            log.error("round %d: %s", instruction.identity.round, diverged)
            return Reply(
                identity=instruction.identity, status="diverged", reason=str(diverged)
            ), b""
        except OutOfRange as why:
            log.error(
                "round %d: the update has no place in a secure sum: %s",
                instruction.identity.round,
                why,
            )
            reason = str(why)
        except OwnLost:
            log.warning(
                "round %d is left out: the server sends the whole model next",
                instruction.identity.round,
            )
            reason = OWN_LOST
        except GivenUp:
            log.warning("round %d is given up: nobody waits for it", instruction.identity.round)
            reason = GivenUp.__name__
        except Unwritable:
            raise
        except FedCXRError as error:
            log.error("round %d failed: %s", instruction.identity.round, error)
            reason = type(error).__name__
        except Exception as error:
            log.exception("round %d failed", instruction.identity.round)
            reason = type(error).__name__
        give_memory_back(self.device)
        return Reply(identity=instruction.identity, status="failed", reason=reason), b""

    def _answer_on_the_cpu(
        self,
        instruction: Instruction,
        blob: Blob,
        cancellation: Cancellation,
        tell: Tell,
        for_good: bool,
    ) -> tuple[Reply, bytes]:
        accelerator, self._computing.device = self.device, torch.device("cpu")
        self._exchange.model.forget()
        self._computing.give_up_films()
        if not for_good:
            give_memory_back(accelerator)
        try:
            return self._answer(instruction, blob, cancellation, tell)
        finally:
            if not for_good:
                self._computing.device = accelerator
                self._exchange.model.forget()

    def _answer(
        self, instruction: Instruction, blob: Blob, cancellation: Cancellation, tell: Tell
    ) -> tuple[Reply, bytes]:
        self._check_run(instruction)
        return self._work.follow(instruction, blob, cancellation, tell)

    def _check_run(self, instruction: Instruction) -> None:
        """Check that an instruction is of the run that was greeted, and as secret.

        With a seed of its own for each instruction a server could choose single films to train on.

        Raises:
            NotAllowed: It is not.
        """
        known = self._greeting
        if known is None or (instruction.identity.run, instruction.seed) != (known.run, known.seed):
            raise NotAllowed("an instruction of another run or seed than was greeted")
        # A canary tells films and loss in plain, whatever it says of sums.
        plain = instruction.secure is None or instruction.batches is not None
        if known.secure and instruction.task == "train" and plain:
            raise NotAllowed("training outside of the secure sums that the greeting told of")
