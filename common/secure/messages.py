"""What server and hospitals say to each other once the hospitals have trained.

::

    server                                      hospital
                                         <-     Reply       with SignedKeys
    ShareCall   (all keys)               ->
                                         <-     Shares      (sealed, for each neighbour)
    MaskCall    (shares for this one)    ->
                                         <-     Masked      (hash of the masked update)
    Fetch                                ->
                                         <-     the masked update
    ConfirmCall (who is in the sum)      ->
                                         <-     Confirmed   (that list, signed)
    RevealCall  (others' signatures)     ->
                                         <-     Revealed    (shares of seeds, or of keys)

A hospital that cannot or may not answer says ``Declined``, and why.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from common.message import Identity, Message, Printable, Sha256
from common.net import SiteName
from common.protocol import Farewell, Greeting, Ping, Rejection
from common.secure.keys import SignedKeys

MOST_HOSPITALS = 1000
"""In one sum."""

Share = Annotated[bytes, Field(min_length=16, max_length=16)]
Digest = Annotated[bytes, Field(min_length=32, max_length=32)]
Signature = Annotated[bytes, Field(max_length=128, description="ECDSA, DER; empty: unsigned")]
Names = Annotated[tuple[SiteName, ...], Field(max_length=MOST_HOSPITALS)]

_BYTES = ConfigDict(
    extra="forbid",
    frozen=True,
    allow_inf_nan=False,
    ser_json_bytes="base64",
    val_json_bytes="base64",
)


class _Step(Message):
    model_config = _BYTES

    identity: Identity


class SealedShares(BaseModel):
    """A hospital's share of another's seed and one of its mask key, for its eyes only."""

    model_config = _BYTES

    box: bytes = Field(max_length=64, description="both shares, sealed; empty: one's own")
    of_seed: Digest = Field(description="hash of the seed's share")
    of_key: Digest = Field(description="hash of the key's share")


class ShareCall(_Step):
    """Says who is in the sum, and asks for shares of a hospital's secrets."""

    kind: Literal["share"] = "share"
    names: Names = Field(description="of all in the sum, sorted; neighbours follow from them")
    keys: dict[SiteName, SignedKeys] = Field(
        description="of this hospital's neighbours and its own"
    )


class Shares(_Step):
    """A hospital's secrets, in shares."""

    kind: Literal["shares"] = "shares"
    sealed: dict[SiteName, SealedShares] = Field(description="for each neighbour and itself")
    seed: Digest = Field(description="hash of the seed")


class MaskCall(_Step):
    """Hands over the shares that others have made for a hospital, and asks for its update."""

    kind: Literal["mask"] = "mask"
    sealed: dict[SiteName, SealedShares] = Field(description="by the name of who made them")


class Masked(_Step):
    """Says that a masked update can be fetched."""

    kind: Literal["masked"] = "masked"
    weights: Sha256 = Field(description="hash of it")


class ConfirmCall(_Step):
    """Says whose masked updates are in the sum."""

    kind: Literal["confirm"] = "confirm"
    survivors: Names


class Confirmed(_Step):
    """Says that a hospital was told this list in this attempt, and no other."""

    kind: Literal["confirmed"] = "confirmed"
    signature: Signature


class RevealCall(_Step):
    """Shows that others were told the same list, and asks for what takes the masks away."""

    kind: Literal["reveal"] = "reveal"
    confirmed: dict[SiteName, Signature] = Field(description="of the hospital's neighbours")


class Revealed(_Step):
    """Shares of the seeds of those in the sum, and of the mask keys of those who are not."""

    kind: Literal["revealed"] = "revealed"
    seeds: dict[SiteName, Share]
    keys: dict[SiteName, Share]


class Declined(_Step):
    """Says that a hospital does not do what it is asked."""

    kind: Literal["declined"] = "declined"
    reason: Printable = Field(max_length=200)
    because_of: SiteName | None = Field(
        None, description="the hospital whose keys or shares are of no use, if that is why"
    )


SecureCall = ShareCall | MaskCall | ConfirmCall | RevealCall
SecureAnswer = Annotated[
    Shares | Masked | Confirmed | Revealed | Declined, Field(discriminator="kind")
]

ANY_CALL: TypeAdapter[Greeting | Rejection | Ping | Farewell | SecureCall] = TypeAdapter(
    Annotated[
        Greeting | Rejection | Ping | Farewell | ShareCall | MaskCall | ConfirmCall | RevealCall,
        Field(discriminator="kind"),
    ]
)
"""What a hospital is told outside the rounds, and in a secure sum."""

SECURE_ANSWER: TypeAdapter[SecureAnswer] = TypeAdapter(SecureAnswer)
