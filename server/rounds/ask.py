"""What the round loop needs of a transport."""

from collections.abc import Callable, Collection
from functools import cached_property
from typing import Protocol

from common.certificates import Peer
from common.message import Identity
from common.protocol import Hello, Instruction, Progress, Reply
from common.secure.messages import SecureAnswer, SecureCall
from common.wire import Blob, fingerprint

TRANSFERS = 8
"""Weights that are fetched, or sent, at once: what bounds the server's memory."""

TRANSFER_SECONDS = 600.0
"""How long the weights of one hospital may take one way, so that none keeps its place for ever; a
DenseNet-121 takes 226 s at 1 Mbit/s."""


class HospitalLost(Exception):  # noqa: N818 - a finding, not a fault
    """A hospital went away, or its answer did not come in time; says which."""


class Weights:
    """The weights that go out beside an instruction, the same object for all who get them.

    Attributes:
        blob: As they travel; see :func:`common.wire.pack`.
    """

    def __init__(self, blob: bytes) -> None:
        self.blob = blob

    @cached_property
    def sha256(self) -> str:
        """Hash of the blob, computed once."""
        return fingerprint(self.blob)


class Connection(Protocol):
    """The line to a hospital that has said hello.

    Attributes:
        peer: What the handshake has proven of the hospital; None: there was none.
        hello: What it said.
        backbone: Hash of the backbone that it holds, as far as is known.
        holds: Hash of the part of a model that it holds, as far as is known.
        own: Rounds after which it keeps something of its own, as far as is known.
    """

    peer: Peer | None
    hello: Hello
    backbone: str | None
    holds: str | None
    own: set[int]

    def ask(
        self,
        instruction: Instruction,
        weights: Weights,
        timeout: float,
        follow: Callable[[Progress], object],
    ) -> Reply:
        """Send an instruction with its weights and wait for the reply.

        Args:
            instruction: What the hospital is to do.
            weights: What it is to do it with.
            timeout: Seconds.
            follow: Is told how far it is.

        Raises:
            HospitalLost: No reply within ``timeout`` seconds.
            ProtocolError: The reply cannot be understood.
        """

    def fetch(self, identity: Identity, timeout: float) -> Blob:
        """Return the weights that go with a reply.

        Raises:
            HospitalLost: They do not come within ``timeout`` seconds.
        """

    def secure(self, call: SecureCall, timeout: float) -> SecureAnswer:
        """Ask for a step of a secure sum and wait for the answer.

        Raises:
            HospitalLost: None comes within ``timeout`` seconds.
            ProtocolError: It cannot be understood.
        """

    def tell(self, identity: Identity, reason: str) -> None:
        """Tell why its reply is not averaged; the hospital may have gone already."""


class Hospitals(Protocol):
    """The hospitals that are connected."""

    def wait_for(self, count: int, timeout: float) -> bool:
        """Wait until so many hospitals have said hello; return whether they have."""

    def wait_for_return(self, names: Collection[str], timeout: float) -> None:
        """Wait until these hospitals are connected and free, those that still may take part."""

    def present(self) -> dict[str, Connection]:
        """Return those that have said hello and are still connected, by name, sorted."""

    def standing(self, connection: Connection) -> str | None:
        """Return why a hospital may not take part any more; None: it may."""

    def dismiss(self, name: str, reason: str) -> None:
        """Tell a hospital that it may not take part any more."""


class Follower(Protocol):
    """Follows what hospitals do while they are asked, from any thread."""

    def progress(self, name: str, progress: Progress) -> None:
        """Note how far a hospital is."""

    def sending(self, name: str, identity: Identity) -> None:
        """Note that a hospital has replied, and that its weights are fetched."""
