"""The messages of a run, each a JSON string; weights travel beside them as one safetensors blob.

::

    server                                  hospital
    Greeting  (run, seed)            ->
                                     <-     Hello    (site, examples, ...)     or Check
    Instruction + weights            ->                                       once a round
                                     <-     Progress (share of batches)        every few seconds
                                     <-     Reply    (hash of the weights, metrics, ...)
    Fetch                            ->                                       when there is room
                                     <-     weights
    Rejection                        ->                                       if they are no good
    Ping                             ->                                       is it alive?
    the steps of a secure sum        ->     see common.secure.messages
    Farewell  (finished or refused)  ->

Every message carries the protocol's version; unknown fields are refused, not ignored. No message
has room for anything about a patient: counts, metrics, times and weights are all there is. Every
number has bounds, so that no sum or mean of what was understood can overflow, and every text is
printable, so that it can do no harm in a log.
"""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter

from common.accounting import LARGEST_EPSILON, Privacy
from common.histograms import HistogramsText
from common.message import MOST_ROUNDS, Identity, Message, Printable, Sha256
from common.net import LONGEST_SECONDS, SiteName
from common.options import Architecture, Part, StrategyChoice, Task, Training, Wire
from common.scores import LARGEST_LOSS, MOST_IMAGES, AucOfAll, Scores
from common.secure.keys import SignedKeys
from common.secure.settings import SecureSettings
from common.shard import SMALLEST

Process = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""128 random bits."""

MOST_BATCHES = 100
"""Of a canary."""

MOST_OWN = 2
"""Rounds after which a hospital keeps something of its own: the last one that counted, and one
that may."""

OWN_LOST = "what it kept of its own is lost"
"""Why a hospital could not follow an instruction that came without its own part of the model."""


class Greeting(Message):
    """The server's first message on a connection."""

    kind: Literal["greeting"] = "greeting"
    run: Printable = Field(min_length=1, max_length=64)
    seed: int = Field(
        ge=0, description="with the patient, decides which films are kept for validation"
    )
    version: Printable = Field("", max_length=64, description="of the server")
    time: AwareDatetime | None = Field(None, description="by the server's clock")
    image_size: int | None = Field(None, description="pixels along each side of the run's films")
    training: Training = Field(Training(), description="as the instructions will have it")
    secure: bool = Field(
        False, description="updates are summed under masks; nobody is to tell its films"
    )


class Hello(Message):
    """A hospital's answer to the greeting."""

    kind: Literal["hello"] = "hello"
    site: SiteName
    version: Printable = Field(max_length=64, description="of the client")
    examples: int = Field(
        ge=1,
        le=MOST_IMAGES,
        description="images with a known label to train on, without validation; 1 where they are "
        "not told",
    )
    validation: int = Field(
        0, ge=0, le=MOST_IMAGES, description="images on which it will score models; 0: none"
    )
    image_size: int = Field(ge=SMALLEST, le=2**14, description="pixels along each side")
    backbone: Sha256 | None = Field(description="hash of the backbone it holds, if any")
    holds: Sha256 | None = Field(
        None, description="hash of the part of a model that it holds, to which changes may come"
    )
    process: Process = Field(description="of the client's process, the same at every connection")
    own: tuple[Annotated[int, Field(ge=1, lt=MOST_ROUNDS)], ...] = Field(
        (),
        max_length=MOST_OWN,
        description="rounds of this run after which it keeps something of its own",
    )


class Check(Message):
    """The answer to the greeting of a client that only looks whether it could join."""

    kind: Literal["check"] = "check"
    site: SiteName
    version: Printable = Field(max_length=64, description="of the client")


class Keep(BaseModel):
    """Says that the hospital may keep the model that it is to score, and which one that is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Literal["final", "best"]
    round: int = Field(ge=0, lt=MOST_ROUNDS, description="after which it was made")
    strategy: StrategyChoice
    sha256: Sha256 = Field(description="of all of the model that hospitals share, packed")
    privacy: Privacy | None = Field(None, description="what the model promises, with --dp")


class Instruction(Message):
    """What a hospital is to do in a round, beside the weights to do it with."""

    kind: Literal["instruction"] = "instruction"
    identity: Identity
    task: Task = Field(description="evaluate: score the weights, no more")
    weights: Part = Field(description="which tensors lie beside this message")
    architecture: Architecture
    training: Training = Field(description="what to train, and how")
    seed: int = Field(ge=0)
    seconds: float = Field(
        gt=0, le=LONGEST_SECONDS, description="after which the answer is of no use any more"
    )
    counted: int = Field(
        0,
        ge=0,
        lt=MOST_ROUNDS,
        description="the last round in which this hospital's reply counted; what it keeps of its "
        "own is as it was after that one; 0: none yet",
    )
    begins_again: bool = Field(
        False, description="the hospital has lost what it kept after that round, as it has said"
    )
    base: Sha256 | None = Field(
        None, description="hash of the model whose change lies beside this message; None: a model"
    )
    keep: Keep | None = Field(None, description="with evaluate: if the model is shared")
    batches: int | None = Field(
        None,
        ge=1,
        le=MOST_BATCHES,
        description="with train: a canary on so many batches; the weights come back as they are",
    )
    secure: SecureSettings | None = Field(
        None, description="with train: the update is kept, to be summed under masks"
    )

    @property
    def wire(self) -> Wire:
        """How trained weights travel to the server; a canary's exactly."""
        return self.training.wire if self.batches is None else "fp32"


class Progress(Message):
    """Tells how far a hospital is with an instruction, ahead of its reply."""

    kind: Literal["progress"] = "progress"
    identity: Identity
    phase: Literal["scoring", "training"]
    share: float = Field(ge=0, le=1, description="of the phase's batches that are done")


class Seconds(BaseModel):
    """How long a hospital took, measured by its own clock."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    wait: float = Field(ge=0, le=LONGEST_SECONDS, description="for a slot on a shared machine")
    evaluate: float = Field(ge=0, le=LONGEST_SECONDS)
    train: float = Field(ge=0, le=LONGEST_SECONDS)


class PrivacySpent(BaseModel):
    """What training has cost so far of the privacy of a hospital's films, over all its runs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epsilon: float = Field(ge=0, le=LARGEST_EPSILON)
    delta: float = Field(gt=0, lt=1)


class Reply(Message):
    """What a hospital answers to an instruction; its weights wait until they are fetched."""

    kind: Literal["reply"] = "reply"
    identity: Identity
    status: Literal["ok", "failed", "diverged"]
    reason: Printable = Field(
        "", max_length=200, description="why it failed; never an exception's text"
    )
    examples: int = Field(0, ge=0, le=MOST_IMAGES, description="images that it trained on")
    loss: float | None = Field(
        None,
        ge=0,
        le=LARGEST_LOSS,
        description="mean training loss over the local epochs; None with --dp sample, whose noise "
        "does not cover it",
    )
    privacy: PrivacySpent | None = Field(None, description="with --dp sample")
    validation: Scores | None = Field(None, description="of the received model, before training")
    histograms: HistogramsText | None = Field(
        None, description="of the same model's logits, on the same films"
    )
    seconds: Seconds = Seconds(wait=0, evaluate=0, train=0)
    weights: Sha256 | None = Field(None, description="hash of the blob to fetch, if it trained")
    memory: int | None = Field(
        None,
        ge=0,
        le=2**50,
        description="with a canary: most bytes in use, of the accelerator or of the process",
    )
    kept: bool = Field(False, description="whether it has kept the model that is shared")
    keys: SignedKeys | None = Field(
        None,
        description="for the secure sum, if it trained for one; examples and loss are not told",
    )


class Fetch(Message):
    """Asks for the weights of a reply."""

    kind: Literal["fetch"] = "fetch"
    identity: Identity


class Rejection(Message):
    """Tells a hospital why its reply is not averaged."""

    kind: Literal["rejection"] = "rejection"
    identity: Identity
    reason: Printable = Field(max_length=500)


class Ping(Message):
    """Asks for any answer at all."""

    kind: Literal["ping"] = "ping"


class RunResult(BaseModel):
    """What came of a run, as one hospital is told."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rounds: int = Field(ge=0, lt=MOST_ROUNDS)
    best_round: int = Field(ge=0, lt=MOST_ROUNDS, description="after which the best model was made")
    hospitals: int = Field(ge=0, description="whose scores of the final model the means are of")
    auc_by_finding: AucOfAll = Field(
        description="mean over the hospitals; None where too few told theirs"
    )
    took_part: int = Field(ge=0, lt=MOST_ROUNDS, description="rounds in which this one counted")
    rejected: int = Field(ge=0, lt=MOST_ROUNDS, description="rounds in which its reply did not")
    missing: int = Field(ge=0, lt=MOST_ROUNDS, description="rounds in which it did not reply")


class Farewell(Message):
    """The server's last message: the run is over, or this hospital may not take part."""

    kind: Literal["farewell"] = "farewell"
    outcome: Literal["finished", "refused"]
    reason: Printable = Field("", max_length=500)
    result: RunResult | None = Field(None, description="with finished: if the model is shared")


Call = Annotated[Greeting | Rejection | Ping | Farewell, Field(discriminator="kind")]
"""What a hospital is told outside the rounds."""

CALL: TypeAdapter[Call] = TypeAdapter(Call)
INSTRUCTION = TypeAdapter(Instruction)
FETCH = TypeAdapter(Fetch)
HELLO: TypeAdapter[Hello | Check] = TypeAdapter(
    Annotated[Hello | Check, Field(discriminator="kind")]
)
PROGRESS = TypeAdapter(Progress)
REPLY = TypeAdapter(Reply)
