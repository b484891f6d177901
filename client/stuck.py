"""Ends a client that is held up by something that may never return."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

from client.state import ClientState
from common.protocol import Instruction
from common.runtime.guard import end_process

log = logging.getLogger(__name__)

GRACE_SECONDS = 60.0
"""After the deadline of a round, until a client that is stuck ends its process."""


@contextmanager
def ended_if_stuck(instruction: Instruction, state: ClientState) -> Iterator[None]:
    """End the process if it is still at work a minute after the deadline.

    Work is given up at the deadline, between two batches or while it waits for a slot, so by then
    it is held up by something that may never return, such as a driver. Whatever restarts the client
    brings it back.
    """

    def words() -> None:
        number = instruction.identity.round
        state.end("failed", reason=f"stuck in round {number}")
        log.critical("round %d: stuck; the process ends", number)

    timer = Timer(instruction.seconds + GRACE_SECONDS, end_process, (1, words))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
