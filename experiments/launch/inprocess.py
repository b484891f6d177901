"""Hospitals in this very process, behind the interface that the round loop uses.

Messages are handed over as they are, and weights as the blob that would travel, so a run gives the
same models as one over gRPC. For grids of experiments: no processes, no sockets, one torch.
"""

from collections.abc import Callable, Collection
from threading import Lock

from client.cancellation import NEVER
from client.hospital import Hospital
from client.progress import Phase, now_and_then
from common.certificates import Peer
from common.errors import NoQuorum
from common.message import Identity
from common.protocol import Greeting, Hello, Instruction, Progress, Reply
from common.secure.messages import SecureAnswer, SecureCall
from server.members.admission import Admission
from server.rounds.ask import Connection, Weights


class InProcessConnection:
    """To a hospital in this process; see :class:`server.rounds.ask.Connection`.

    Args:
        hospital: The hospital.
        greeting: The run's.
        turn: Held while the hospital computes: one at a time.
    """

    peer: Peer | None = None

    def __init__(self, hospital: Hospital, greeting: Greeting, turn: Lock) -> None:
        self.hello: Hello = hospital.greet(greeting)
        self.backbone = self.hello.backbone
        self.holds = self.hello.holds
        self.own = set(self.hello.own)
        self._hospital = hospital
        self._turn = turn
        self._weights = b""

    def ask(
        self,
        instruction: Instruction,
        weights: Weights,
        timeout: float,
        follow: Callable[[Progress], object],
    ) -> Reply:
        """Do what the instruction says and return the reply; nothing is late here."""
        del timeout

        def tell(phase: Phase, share: float) -> None:
            follow(Progress(identity=instruction.identity, phase=phase, share=share))

        with self._turn:
            reply, self._weights = self._hospital.answer(
                instruction, weights.blob, NEVER, now_and_then(tell)
            )
        return reply

    def fetch(self, identity: Identity, timeout: float) -> bytes:
        """Return the weights of the last reply, once."""
        del identity, timeout
        weights, self._weights = self._weights, b""
        return weights

    def secure(self, call: SecureCall, timeout: float) -> SecureAnswer:
        """Return the hospital's answer to a step of a secure sum."""
        del timeout
        answer, self._weights = self._hospital.sums.answer(call)
        return answer

    def tell(self, identity: Identity, reason: str) -> None:
        """Do nothing: the reason stands in the run's events."""


class InProcessHospitals:
    """Hospitals that are connected from the start; see :class:`server.rounds.ask.Hospitals`.

    Args:
        hospitals: All that take part.
        admission: Decides which of them may.
    """

    def __init__(self, hospitals: Collection[Hospital], admission: Admission) -> None:
        turn = Lock()
        self._admission = admission
        self._connections = {
            hospital.name: InProcessConnection(hospital, admission.greeting, turn)
            for hospital in hospitals
        }

    def wait_for(self, count: int, timeout: float) -> bool:
        """Return True if so many hospitals are there.

        Raises:
            NoQuorum: They are not, and none comes later.
        """
        del timeout
        if (there := len(self.present())) < count:
            raise NoQuorum(f"{count} hospitals are needed, and {there} have not been excluded")
        return True

    def wait_for_return(self, names: Collection[str], timeout: float) -> None:
        """Do nothing: no hospital is ever away."""

    def present(self) -> dict[str, Connection]:
        """Return those that may still take part, by name, sorted."""
        return {
            name: connection
            for name, connection in sorted(self._connections.items())
            if self.standing(connection) is None
        }

    def standing(self, connection: Connection) -> str | None:
        """Return why a hospital may not take part any more; None: it may."""
        return self._admission.standing(connection.peer, connection.hello)

    def dismiss(self, name: str, reason: str) -> None:
        """Do nothing: from now on :meth:`standing` says why the hospital may not take part."""
