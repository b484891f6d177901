"""What the round loop needs of a transport; ``server/flower.py`` provides it."""

from collections.abc import Iterator
from queue import Empty, Queue
from threading import Thread
from time import monotonic
from typing import NamedTuple, Protocol

from common.protocol import Hello, Instruction, Reply


class SiteLost(Exception):  # noqa: N818 - a finding, not a fault
    """A hospital went away, or its answer was no message; says which."""


class Site(Protocol):
    """A hospital that has said hello.

    Attributes:
        hello: What it said.
        backbone: Hash of the backbone that it holds, as far as is known.
    """

    hello: Hello
    backbone: str | None

    def ask(self, instruction: Instruction, blob: bytes, timeout: float) -> tuple[Reply, bytes]:
        """Send an instruction with weights and wait for the reply with its weights.

        Raises:
            SiteLost: No reply within ``timeout`` seconds, or none that can be understood.
        """


class Sites(Protocol):
    """The hospitals that are connected."""

    def wait_for(self, count: int, timeout: float) -> bool:
        """Wait until so many hospitals have said hello; return whether they have."""

    def present(self) -> dict[str, Site]:
        """Return those who have said hello and are still connected, by name, sorted."""


class Errand(NamedTuple):
    """What one hospital is asked: an instruction and the weights that go with it."""

    site: Site
    instruction: Instruction
    blob: bytes


class Outcome(NamedTuple):
    """What came of an errand."""

    name: str
    answer: tuple[Reply, bytes] | SiteLost
    seconds: float


def ask_all(errands: dict[str, Errand], timeout: float) -> Iterator[Outcome]:
    """Ask all hospitals at once and yield what comes of it, as it comes, until the deadline.

    Hospitals that have not answered by then are not among what is yielded; their late answers go
    nowhere.

    Args:
        errands: By the hospital's name.
        timeout: Seconds.
    """
    start = monotonic()
    outcomes: Queue[Outcome] = Queue()

    def run(name: str, errand: Errand) -> None:
        answer: tuple[Reply, bytes] | SiteLost
        try:
            answer = errand.site.ask(errand.instruction, errand.blob, timeout)
        except SiteLost as lost:
            answer = lost
        outcomes.put(Outcome(name, answer, monotonic() - start))

    for name, errand in errands.items():
        # Daemon threads: one that never comes back does not keep the process.
        Thread(target=run, args=(name, errand), daemon=True).start()
    for _ in errands:
        try:
            yield outcomes.get(timeout=max(0.0, start + timeout - monotonic()))
        except Empty:
            return
