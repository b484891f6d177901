"""The secure sums that a hospital takes part in, one attempt after the other."""

import logging
import os
from collections.abc import Callable

from client.secure.attempt import Refusal, SecureAttempt
from common.message import Identity
from common.secure.keys import Signer
from common.secure.messages import (
    ConfirmCall,
    Declined,
    MaskCall,
    Masked,
    RevealCall,
    SecureAnswer,
    SecureCall,
    ShareCall,
)
from common.secure.settings import SecureSettings
from common.secure.terms import Terms
from common.wire import fingerprint

log = logging.getLogger(__name__)

REMEMBERED = 100
"""Models whose sums are compared."""

MOST_SUMS = 2
"""Of one model, over different hospitals: from three and more single updates can follow."""


class SecureSums:
    """Answers the server's calls, each for the attempt that was begun last.

    A model that comes again is trained alike, so that sums of it over other hospitals can be
    subtracted. An honest server asks for a second one where the first one has failed at its last
    step: the hospital warns. In a third one it has no part.

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
        self._sums: dict[str, set[tuple[str, ...]]] = {}  # who was in them, by the model's hash

    def begin(
        self, identity: Identity, settings: SecureSettings, seed: int, terms: Terms
    ) -> SecureAttempt:
        """Forget the attempt before, and return a new one.

        Args:
            identity: Of the attempt.
            settings: Of the attempt.
            seed: The run's.
            terms: What the hospital was told.

        Raises:
            BadInput: The hospital's certificate cannot be read.
        """
        signer, before = self._signer(), self._attempt
        if signer is None and (before is None or before.identity.run != identity.run):
            log.warning("without certificates the server can play the other hospitals of a sum")
        self._attempt = SecureAttempt(
            self._name, identity, settings, seed, terms, signer, self._random
        )
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
                case ConfirmCall():
                    return attempt.confirm(call), b""
                case RevealCall():
                    revealed = attempt.reveal(call)
                    self._compare(attempt)
                    return revealed, b""
        except Refusal as refusal:
            log.warning("round %d: secure sum: %s", identity.round, refusal)
            reason, because_of = str(refusal)[:200], refusal.because_of
            return Declined(identity=identity, reason=reason, because_of=because_of), b""

    def _compare(self, attempt: SecureAttempt) -> None:
        """Note who is in a sum that would be unmasked now.

        Raises:
            Refusal: Two others of the same model were.
        """
        known = self._sums.setdefault(attempt.terms.model, set())
        if known - {attempt.survivors}:
            log.warning(
                "another sum from the same model was unmasked: unless it failed after that, the "
                "server can subtract what the two have in common"
            )
        if len(known | {attempt.survivors}) > MOST_SUMS:
            raise Refusal(f"{MOST_SUMS} other sums from the same model were unmasked")
        known.add(attempt.survivors)
        while len(self._sums) > REMEMBERED:
            del self._sums[next(iter(self._sums))]
