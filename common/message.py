"""What all messages have, version, identity and harmless texts, and how one is read."""

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

VERSION: Literal[9] = 9
"""Of the protocol: both sides must have the same."""

MOST_ROUNDS = 2**31
"""A round's or an attempt's number is below this."""

LONGEST = 1 << 17
"""Characters of a message; the longest is a reply with histograms, which take at most 76,464."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

MessageT = TypeVar("MessageT")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has characters that are not printable")
    return text


Printable = Annotated[str, AfterValidator(_printable)]
"""Text without line ends, escapes and other control characters."""


class Message(BaseModel):
    """What every message has."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    protocol: Literal[9] = VERSION


class Identity(BaseModel):
    """Which attempt at which round of which run; comes back with every reply."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Printable = Field(min_length=1, max_length=64)
    round: int = Field(ge=0, lt=MOST_ROUNDS)
    attempt: int = Field(ge=1, lt=MOST_ROUNDS)


class ProtocolError(ValueError):
    """What arrived is no message that this side understands; says no more of it than that."""


def parse_message(messages: TypeAdapter[MessageT], text: str) -> MessageT:
    """Return the message in a JSON text.

    Raises:
        ProtocolError: It is none, too long for one, or of another version of the protocol.
    """
    if len(text) > LONGEST:
        raise ProtocolError(f"no message of protocol {VERSION}")
    try:
        return messages.validate_json(text)
    except ValidationError as error:
        other = any(problem["loc"][-1:] == ("protocol",) for problem in error.errors())
    version = "another version" if other else "no message"
    raise ProtocolError(f"{version} of protocol {VERSION}")
