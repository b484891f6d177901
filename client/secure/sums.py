"""The secure sums that a hospital takes part in, one attempt after the other."""

import logging
import os
from collections.abc import Callable

from client.secure.attempt import Refusal, SecureAttempt
from common.protocol import Identity
from common.secure.keys import Signer
from common.secure.messages import (
    Declined,
    MaskCall,
    Masked,
    RevealCall,
    SecureAnswer,
    SecureCall,
    ShareCall,
)
from common.secure.settings import FEWEST, SecureSettings
from common.wire import fingerprint

log = logging.getLogger(__name__)


class SecureSums:
    """Answers the server's calls, each for the attempt that was begun last.

    A round that is repeated is trained alike, so that two sums of one round that differ by a
    hospital tell its update. An honest server has no two sums of one round, but asks for the second
    one where the first one has failed: the hospital warns, and its audit log has the evidence.

    Args:
        name: The hospital's.
        signer: Returns who signs for it now; None: nobody does.
        random: Returns so many secret bytes.
    """

    def __init__(
        self,
        name: str,
        signer: Callable[[], Signer | None],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._name = name
        self._signer = signer
        self._random = random
        self._attempt: SecureAttempt | None = None
        self._round: tuple[str, int] | None = None
        self._sums: list[frozenset[str]] = []  # of the round

    def begin(self, identity: Identity, settings: SecureSettings, seed: int) -> SecureAttempt:
        """Forget the attempt before, and return a new one.

        Args:
            identity: Of the attempt.
            settings: Of the attempt.
            seed: The run's.

        Raises:
            BadInput: The hospital's certificate cannot be read.
        """
        signer, before = self._signer(), self._round
        if signer is None and (before is None or before[0] != identity.run):
            log.warning("without certificates the server can play the other hospitals of a sum")
        if before != (identity.run, identity.round):
            self._round, self._sums = (identity.run, identity.round), []
        self._attempt = SecureAttempt(self._name, identity, settings, seed, signer, self._random)
        return self._attempt

    def answer(self, call: SecureCall) -> tuple[SecureAnswer, bytes]:
        """Return the answer to a call, and the masked update if it is asked for."""
        identity = call.identity
        try:
            attempt = self._attempt
            if attempt is None or attempt.identity != identity:
                raise Refusal("this attempt is not, or not any more, known here")
            match call:
                case ShareCall():
                    log.info("round %d: secure sum of %s", identity.round, ", ".join(call.names))
                    return attempt.share(call), b""
                case MaskCall():
                    blob = attempt.mask(call)
                    return Masked(identity=identity, weights=fingerprint(blob)), blob
                case RevealCall():
                    answer = attempt.reveal(call)
                    self._compare(frozenset(call.survivors))
                    return answer, b""
        except Refusal as refusal:
            log.warning("round %d: secure sum: %s", identity.round, refusal)
            reason, because_of = str(refusal)[:200], refusal.because_of
            return Declined(identity=identity, reason=reason, because_of=because_of), b""

    def _compare(self, survivors: frozenset[str]) -> None:
        """Note a sum of the round, and warn if it differs from another one by too few hospitals."""
        for earlier in self._sums:
            if 0 < len(apart := survivors ^ earlier) < FEWEST:
                log.warning(
                    "another sum of this round differs by %s: unless the first one failed, the "
                    "server can subtract them",
                    " and ".join(sorted(apart)),
                )
        self._sums.append(survivors)
