"""What the round loop needs of a transport."""

from collections.abc import Callable, Collection, Iterator
from queue import Empty, Queue
from threading import Semaphore, Thread
from time import monotonic
from typing import NamedTuple, Protocol

from common.certificates import Peer
from common.protocol import Hello, Identity, Instruction, Progress, ProtocolError, Reply
from common.wire import fingerprint
from server.rounds.checks import Rejected

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
        sha256: Hash of the blob.
    """

    def __init__(self, blob: bytes) -> None:
        self.blob = blob
        self.sha256 = fingerprint(blob)


class Connection(Protocol):
    """The line to a hospital that has said hello.

    Attributes:
        peer: What the handshake has proven of the hospital; None: there was none.
        hello: What it said.
        backbone: Hash of the backbone that it holds, as far as is known.
        own: Rounds after which it keeps something of its own, as far as is known.
    """

    peer: Peer | None
    hello: Hello
    backbone: str | None
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

    def fetch(self, identity: Identity, timeout: float) -> bytes:
        """Return the weights that go with a reply.

        Raises:
            HospitalLost: They do not come within ``timeout`` seconds.
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


class Errand(NamedTuple):
    """What one hospital is asked.

    Attributes:
        connection: To the hospital.
        instruction: What it is to do.
        weights: What it is to do it with.
    """

    connection: Connection
    instruction: Instruction
    weights: Weights


class Outcome(NamedTuple):
    """What came of an errand.

    Attributes:
        name: The hospital's.
        answer: Its reply with its weights, empty if it has none, or why no reply came.
        asked: Seconds until the reply.
        fetched: Seconds that its weights took.
    """

    name: str
    answer: tuple[Reply, bytes] | HospitalLost | Rejected
    asked: float
    fetched: float


def ask_all(errands: dict[str, Errand], timeout: float, follower: Follower) -> Iterator[Outcome]:
    """Ask all hospitals at once and yield what comes of it, as it comes, until the deadline.

    No more than :data:`TRANSFERS` replies have their weights here at a time: a hospital keeps its
    own until there is room, and the consumer makes room by coming back for the next outcome.
    Hospitals that have not answered by the deadline are not among what is yielded; their late
    answers go nowhere.

    Args:
        errands: By the hospital's name.
        timeout: Seconds.
        follower: Is told what they do meanwhile.
    """
    deadline = monotonic() + timeout
    room = Semaphore(TRANSFERS)
    outcomes: Queue[Outcome] = Queue()

    def run(name: str, errand: Errand) -> None:
        start = monotonic()
        answer: tuple[Reply, bytes] | HospitalLost | Rejected
        asked = start
        try:
            reply = errand.connection.ask(
                errand.instruction,
                errand.weights,
                deadline - start,
                lambda progress: follower.progress(name, progress),
            )
            asked = monotonic()
            follower.sending(name, errand.instruction.identity)
            answer = (reply, _fetch(errand, reply, deadline, room))
        except HospitalLost as lost:
            answer = lost
        except ProtocolError as error:
            answer = Rejected(f"answered {error}")
        outcomes.put(Outcome(name, answer, asked - start, monotonic() - asked))

    for name, errand in errands.items():
        # Daemon threads: one that never comes back does not keep the process.
        Thread(target=run, args=(name, errand), daemon=True).start()
    for _ in errands:
        try:
            outcome = outcomes.get(timeout=max(0.0, deadline - monotonic()))
        except Empty:
            return
        yield outcome
        if isinstance(outcome.answer, tuple) and outcome.answer[0].weights is not None:
            room.release()


def _fetch(errand: Errand, reply: Reply, deadline: float, room: Semaphore) -> bytes:
    """Return the weights of a reply; they take a place in ``room`` until they are used.

    Raises:
        HospitalLost: They do not come in time; no place is taken then.
    """
    if reply.weights is None:
        return b""
    if not room.acquire(timeout=max(0.0, deadline - monotonic())):
        raise HospitalLost("there was no time left to fetch its weights")
    try:
        left = min(deadline - monotonic(), TRANSFER_SECONDS)
        return errand.connection.fetch(errand.instruction.identity, left)
    except HospitalLost:
        room.release()
        raise
