"""Errands that are under way: asking hospitals at once, and taking what comes of it as it comes."""

from collections.abc import Callable, Iterator, Mapping
from queue import Empty, Queue
from threading import Semaphore, Thread
from time import monotonic
from typing import NamedTuple

from common.errors import FedCXRError
from common.message import ProtocolError
from common.protocol import Reply
from common.wire import Blob, fingerprint
from server.rounds.ask import TRANSFER_SECONDS, TRANSFERS, Follower, HospitalLost
from server.rounds.checks import Rejected
from server.rounds.errands import Errand

ASK_SECONDS = 1.0
"""Between two looks at whether there is enough, while nothing comes."""


class Answer(NamedTuple):
    """A reply with its weights.

    Attributes:
        reply: As it came.
        blob: Its weights, empty if it has none.
        sha256: Hash of the weights; None: there are none.
    """

    reply: Reply
    blob: Blob
    sha256: str | None


class Outcome(NamedTuple):
    """What came of an errand.

    Attributes:
        name: The hospital's.
        errand: What it was asked.
        answer: Its reply, or why no reply came.
        asked: Seconds until the reply.
        fetched: Seconds that its weights took.
    """

    name: str
    errand: Errand
    answer: Answer | HospitalLost | Rejected
    asked: float
    fetched: float


class UnderWay:
    """Asks hospitals, each until a deadline of its own, over one attempt or several.

    No more than :data:`server.rounds.ask.TRANSFERS` replies have their weights here at a time: a
    hospital keeps its own until there is room, and the consumer makes room by coming back for the
    next outcome.

    Args:
        follower: Is told what hospitals do meanwhile.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._errands: dict[str, tuple[Errand, float]] = {}  # with its deadline
        self._outcomes: Queue[Outcome | FedCXRError] = Queue()
        self._room = Semaphore(TRANSFERS)

    @property
    def errands(self) -> dict[str, Errand]:
        """Those of which nothing has come yet, by the hospital's name."""
        return {name: errand for name, (errand, _) in self._errands.items()}

    def ask(self, errands: Mapping[str, Errand], timeout: float) -> None:
        """Ask hospitals that are not busy with another errand.

        Args:
            errands: By the hospital's name.
            timeout: Seconds.
        """
        deadline = monotonic() + timeout
        for name, errand in errands.items():
            self._errands[name] = errand, deadline
        for name, errand in errands.items():
            # Daemon threads: one that never comes back does not keep the process.
            Thread(target=self._run, args=(name, errand, deadline), daemon=True).start()

    def outcomes(self, enough: Callable[[], bool] = lambda: False) -> Iterator[Outcome]:
        """Yield what comes of the errands, as it comes, until nothing is under way any more.

        A hospital that has not answered by its deadline is lost; its late answer goes nowhere.

        Args:
            enough: Is asked before each outcome, and each second; if so, the others remain under
                way. What it raises ends this.

        Raises:
            FedCXRError: An errand raised it. It is no finding on a hospital but ends the run, such
                as a full disk where hospitals are in this process.
        """
        while self._errands and not enough():
            left = min(deadline for _, deadline in self._errands.values()) - monotonic()
            try:
                outcome = self._outcomes.get(timeout=min(max(0.0, left), ASK_SECONDS))
            except Empty:
                yield from self._expired()
                continue
            if isinstance(outcome, FedCXRError):
                raise outcome
            expected, _ = self._errands.get(outcome.name, (None, 0.0))
            if outcome.errand is expected:
                del self._errands[outcome.name]
                yield outcome
            if isinstance(outcome.answer, Answer) and outcome.answer.reply.weights is not None:
                self._room.release()

    def _expired(self) -> Iterator[Outcome]:
        now = monotonic()
        for name, (errand, deadline) in list(self._errands.items()):
            if deadline <= now:
                del self._errands[name]
                lost = HospitalLost("no reply before the deadline")
                yield Outcome(name, errand, lost, 0.0, 0.0)

    def _run(self, name: str, errand: Errand, deadline: float) -> None:
        answer: Answer | HospitalLost | Rejected
        start = asked = fetched = monotonic()
        try:
            reply = errand.connection.ask(
                errand.instruction,
                errand.weights,
                deadline - start,
                lambda progress: self._follower.progress(name, progress),
            )
            asked = fetched = monotonic()
            self._follower.sending(name, errand.instruction.identity)
            blob = self._fetch(errand, reply, deadline)
            fetched = monotonic()
            # Hashed here and not where replies are checked: that is one thread for all of them.
            answer = Answer(reply, blob, fingerprint(blob) if blob else None)
        except HospitalLost as lost:
            answer = lost
        except ProtocolError as error:
            answer = Rejected(f"answered {error}")
        except FedCXRError as error:
            self._outcomes.put(error)
            return
        self._outcomes.put(Outcome(name, errand, answer, asked - start, fetched - asked))

    def _fetch(self, errand: Errand, reply: Reply, deadline: float) -> Blob:
        """Return the weights of a reply; they take a place until they are used.

        Raises:
            HospitalLost: They do not come in time; no place is taken then.
        """
        if reply.weights is None:
            return b""
        if not self._room.acquire(timeout=max(0.0, deadline - monotonic())):
            raise HospitalLost("there was no time left to fetch its weights")
        try:
            left = min(deadline - monotonic(), TRANSFER_SECONDS)
            return errand.connection.fetch(errand.instruction.identity, left)
        except BaseException:
            self._room.release()
            raise
