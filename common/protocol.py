"""The messages of a run, each a JSON string; weights travel beside them as one safetensors blob.

::

    server                                  hospital
    Greeting  (run, seed, ...)       ->
                                     <-     Hello    (site, examples, ...)
    Instruction + weights            ->                                       once a round
                                     <-     Reply + weights
    Farewell  (finished or refused)  ->

Every message carries the protocol's version; unknown fields are refused, not ignored. No message
has room for anything about a patient: counts, metrics, times and weights are all there is.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from common.data.shard import SMALLEST
from common.evaluation import Scores
from common.model import Architecture, Mode
from common.net import SiteName

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Message(BaseModel):
    """What every message has."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    protocol: Literal[1] = 1


class Identity(BaseModel):
    """Which attempt at which round of which run; comes back with every reply."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str = Field(min_length=1, max_length=64)
    round: int = Field(ge=0)
    attempt: int = Field(ge=1)


class Greeting(Message):
    """The server's first words to whoever connects."""

    kind: Literal["greeting"] = "greeting"
    run: str = Field(min_length=1, max_length=64)
    seed: int = Field(ge=0, description="with the patient, decides who is kept for validation")


class Hello(Message):
    """A hospital's answer to the greeting."""

    kind: Literal["hello"] = "hello"
    site: SiteName
    version: str = Field(max_length=64, description="of the client")
    examples: int = Field(ge=1, description="images for training, validation not among them")
    image_size: int = Field(ge=SMALLEST, description="pixels along each side")
    backbone: Sha256 | None = Field(description="hash of the backbone it holds, if any")


class Instruction(Message):
    """What a hospital is to do in a round, beside the weights to do it with."""

    kind: Literal["instruction"] = "instruction"
    identity: Identity
    task: Literal["train", "evaluate"] = Field(description="evaluate: score the weights, no more")
    weights: Literal["all", "head"] = Field(description="which tensors lie beside this message")
    architecture: Architecture
    mode: Mode
    lr: float = Field(gt=0)
    momentum: float = Field(ge=0, lt=1)
    batch_size: int = Field(ge=1)
    local_epochs: int = Field(ge=1)
    label_fraction: float = Field(gt=0, le=1, description="share of its labels that it may use")
    seed: int = Field(ge=0)


class Seconds(BaseModel):
    """How long a hospital took, measured by its own clock."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    wait: float = Field(ge=0, description="for a slot on a shared machine")
    evaluate: float = Field(ge=0)
    train: float = Field(ge=0)


class Reply(Message):
    """What a hospital answers to an instruction, beside its weights if it trained."""

    kind: Literal["reply"] = "reply"
    identity: Identity
    status: Literal["ok", "failed"]
    reason: str = Field("", max_length=200, description="why it failed; never an exception's text")
    examples: int = Field(0, ge=0, description="images that it trained on")
    loss: float | None = Field(None, ge=0, description="mean training loss over the local epochs")
    validation: Scores | None = Field(None, description="of the received model, before training")
    seconds: Seconds = Seconds(wait=0, evaluate=0, train=0)
    weights: Sha256 | None = Field(None, description="hash of the blob beside this message")


class Farewell(Message):
    """The server's last words: the run is over, or this hospital may not take part."""

    kind: Literal["farewell"] = "farewell"
    outcome: Literal["finished", "refused"]
    reason: str = Field("", max_length=500)


Call = Annotated[Greeting | Farewell, Field(discriminator="kind")]
"""What a hospital is told outside the rounds."""

CALL: TypeAdapter[Greeting | Farewell] = TypeAdapter(Call)
