"""Goes through the steps of a secure sum with hospitals that are connected."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Semaphore, Thread

from common.message import Identity, ProtocolError
from common.secure.messages import (
    Confirmed,
    Declined,
    Masked,
    Revealed,
    SecureAnswer,
    SecureCall,
    Shares,
)
from common.wire import Blob, fingerprint
from server.rounds.ask import TRANSFER_SECONDS, TRANSFERS, Connection, HospitalLost
from server.secure.aggregation import Aggregation, Improper

log = logging.getLogger(__name__)

STEP_SECONDS = 60.0
"""How long a hospital may take for a step, without the time that its update travels."""

Answer = tuple[SecureAnswer, Blob] | HospitalLost | ProtocolError


@dataclass
class Conducted:
    """Who went away from a sum, or was left out of it, on the way.

    Attributes:
        lost: Why no answer came, or none that helps, by name.
        improper: Why an answer was not taken, by name.
        accused: By whose shares hospitals could not be helped: how many said so, by name.
        received: Bytes of all answers.
    """

    lost: dict[str, str] = field(default_factory=dict)
    improper: dict[str, str] = field(default_factory=dict)
    accused: dict[str, int] = field(default_factory=dict)
    received: int = 0


def gather(
    aggregation: Aggregation, connections: Mapping[str, Connection], found: Conducted
) -> None:
    """Ask for shares and masked updates; nothing of a sum can be read yet.

    Args:
        aggregation: Takes in what comes.
        connections: To all of its hospitals, by name.
        found: Is told who went away on the way.

    Raises:
        NoSum: Too few hospitals are left.
    """
    _step(aggregation, aggregation.share_calls(), Shares, connections, found)
    _step(aggregation, aggregation.mask_calls(), Masked, connections, found)


def confirm(
    aggregation: Aggregation, connections: Mapping[str, Connection], found: Conducted
) -> None:
    """Let all sign who is in the sum; nothing can be read yet; see :func:`gather`.

    Raises:
        NoSum: Too few hospitals are left.
    """
    _step(aggregation, aggregation.confirm_calls(), Confirmed, connections, found)
    aggregation.check_confirmed()


def reveal(
    aggregation: Aggregation, connections: Mapping[str, Connection], found: Conducted
) -> None:
    """Ask for what takes the masks away; see :func:`gather`."""
    _step(aggregation, aggregation.reveal_calls(), Revealed, connections, found)


def _step(
    aggregation: Aggregation,
    calls: Mapping[str, SecureCall],
    kind: type[SecureAnswer],
    connections: Mapping[str, Connection],
    found: Conducted,
) -> None:
    """Ask hospitals for answers of one kind, all at once."""
    room, answers = Semaphore(TRANSFERS), SimpleQueue[tuple[str, Answer]]()
    for name, call in calls.items():
        arguments = (name, connections[name], call, room, answers)
        Thread(target=_ask, args=arguments, daemon=True).start()
    for _ in calls:
        name, answer = answers.get()
        _take(aggregation, name, answer, kind, calls[name].identity, found)
        if isinstance(answer, tuple) and isinstance(answer[0], Masked):
            room.release()


def _ask(
    name: str,
    connection: Connection,
    call: SecureCall,
    room: Semaphore,
    answers: "SimpleQueue[tuple[str, Answer]]",
) -> None:
    """Ask one hospital; a masked update takes room until it is taken in."""
    try:
        answer = connection.secure(call, STEP_SECONDS)
        blob: Blob = b""
        if isinstance(answer, Masked):
            room.acquire()
            try:
                blob = connection.fetch(call.identity, TRANSFER_SECONDS)
            except HospitalLost:
                room.release()
                raise
        answers.put((name, (answer, blob)))
    except (HospitalLost, ProtocolError) as error:
        answers.put((name, error))
    except Exception as error:  # noqa: BLE001 - or the sum would wait for this one for ever
        answers.put((name, HospitalLost(type(error).__name__)))


def _take(
    aggregation: Aggregation,
    name: str,
    answer: Answer,
    kind: type[SecureAnswer],
    identity: Identity,
    found: Conducted,
) -> None:
    if not isinstance(answer, tuple):
        found.lost[name] = str(answer)
        return
    said, blob = answer
    found.received += len(blob) + len(said.model_dump_json())
    try:
        if not isinstance(said, (kind, Declined)) or said.identity != identity:
            raise Improper("answered something else than it was asked")
        match said:
            case Shares():
                aggregation.add_shares(name, said)
            case Masked():
                if fingerprint(blob) != said.weights:
                    raise Improper("its masked update does not have the hash that was announced")
                aggregation.add_update(name, blob)
            case Confirmed():
                aggregation.add_confirmed(name, said)
            case Revealed():
                aggregation.add_revealed(name, said)
            case Declined():
                found.lost[name] = f"declined: {said.reason}"
                if said.because_of is not None:
                    found.accused[said.because_of] = found.accused.get(said.because_of, 0) + 1
    except Improper as improper:
        found.improper[name] = str(improper)
