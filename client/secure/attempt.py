"""A hospital's part in a secure sum: its keys, its masks, and what it reveals of them.

Secrets are in memory alone and belong to one attempt. A process that is killed has dropped out of
it; the next attempt begins with new ones.
"""

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.message import Identity
from common.scores import rounded
from common.secure.fixed import clipping, to_words
from common.secure.graph import neighbourhoods
from common.secure.halves import Words
from common.secure.keys import (
    BadKeys,
    SignedKeys,
    Signer,
    bond,
    check_keys,
    is_signed,
    list_of,
    sign,
    signature_of,
)
from common.secure.masks import (
    SEED_BYTES,
    BadBox,
    add_mask,
    agree,
    context,
    mask_of,
    private_key,
    public_of,
    seal,
    seed_key,
    sign_of,
    unseal,
)
from common.secure.messages import (
    ConfirmCall,
    Confirmed,
    MaskCall,
    RevealCall,
    Revealed,
    SealedShares,
    ShareCall,
    Shares,
)
from common.secure.settings import FEWEST, SPARSE_THRESHOLD, SecureSettings
from common.secure.shares import digest, needed, split
from common.secure.terms import Terms
from common.seeds import generator
from common.state import State

log = logging.getLogger(__name__)


class Refusal(Exception):  # noqa: N818 - a verdict, not a fault
    """The hospital does not do what it is asked; says why.

    Args:
        reason: In words fit for a log.
        because_of: The hospital whose keys or shares are of no use, if that is why.
    """

    def __init__(self, reason: str, because_of: str | None = None) -> None:
        super().__init__(reason)
        self.because_of = because_of


class SecureAttempt:
    """What a hospital knows in one attempt; each step is done once, in order.

    Args:
        name: The hospital's.
        identity: Of the attempt.
        settings: Of the attempt.
        seed: The run's, for the graph and for rounding.
        terms: What the hospital was told.
        signer: Signs its keys and checks the others'; None: nobody's keys are proven.
        random: Returns so many secret bytes.

    Attributes:
        keys: What the server is to pass on to the others.
        identity: As given.
        terms: As given.
        survivors: Those in the sum, sorted, once they are confirmed.
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        settings: SecureSettings,
        seed: int,
        terms: Terms,
        signer: Signer | None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.identity = identity
        self.terms = terms
        self._name = name
        self._settings = settings
        self._seed = seed
        self._signer = signer
        self._key_seed, self._self_seed = random(SEED_BYTES), random(SEED_BYTES)
        self._mask_key = private_key(self._key_seed)
        self._seal_key = private_key(random(SEED_BYTES))
        self._attempt = identity.model_dump()
        self.keys = sign(
            name, self._attempt, public_of(self._mask_key), public_of(self._seal_key), signer
        )
        self._words: Words | None = None
        self._names: tuple[str, ...] = ()
        self._known: dict[str, SignedKeys] = {}  # of the neighbourhood; empty until it is told
        self._own: tuple[bytes, bytes] = b"", b""  # its own shares of its own secrets
        self._held: dict[str, tuple[bytes, bytes]] = {}  # of those it masks with, and its own
        self.survivors: tuple[str, ...] = ()

    def hold(self, words: Words) -> None:
        """Keep the update until it is asked for, masked."""
        self._words = words

    def hold_change(self, before: State, after: State, films: int, loss: float | None) -> None:
        """Keep what a training has changed, clipped, until it is asked for, masked.

        Args:
            before: What was trained.
            after: What came of it.
            films: That it was trained on.
            loss: Mean training loss; None: it may not be told.

        Raises:
            OutOfRange: The change has no place in a sum.
        """
        norm, factor = clipping(before, after, self._settings.clip)
        clipped = f", clipped to {self._settings.clip:g}" if factor < 1 else ""
        log.info(
            "round %d: loss %s over %d images; an update of norm %.3g%s waits for the secure sum",
            *(self.identity.round, rounded(loss, 4), films, norm, clipped),
        )
        rng = generator(self._seed, "secure wire", self.identity.round, self._name)
        self.hold(to_words(before, after, films, loss or 0.0, self._settings, rng))

    def share(self, call: ShareCall) -> Shares:
        """Return the seed and the mask key in shares, each sealed for one neighbour.

        Raises:
            Refusal: Keys are not proven, or there are too few hospitals.
        """
        if self._known:
            raise Refusal("shares were made in this attempt already")
        names, at = call.names, self.identity
        graph = neighbourhoods(names, self._seed, at.round, at.attempt)
        if len(names) < FEWEST or list(names) != sorted(set(names)) or self._name not in names:
            raise Refusal(f"a sum is of {FEWEST} hospitals at least, each named once")
        if sorted(call.keys) != graph[self._name] or call.keys[self._name] != self.keys:
            raise Refusal("the keys are not those of the hospital's neighbours and its own")
        self._check_keys(call)
        sparse = len(call.keys) < len(names)
        if sparse and self._settings.threshold <= SPARSE_THRESHOLD:
            raise Refusal(f"with so many hospitals the threshold is above {SPARSE_THRESHOLD}")
        self._known, self._names = call.keys, names
        holders = graph[self._name]
        count = needed(self._settings.threshold, len(holders))
        of_seed = split(self._self_seed, count, holders)
        of_key = split(self._key_seed, count, holders)
        self._own = of_seed[self._name], of_key[self._name]
        sealed = {name: self._sealed(name, of_seed[name], of_key[name]) for name in holders}
        return Shares(identity=at, sealed=sealed, seed=digest(self._self_seed))

    def _check_keys(self, call: ShareCall) -> None:
        seals = {keys.seal for keys in call.keys.values()}
        if len(seals) < len(call.keys):
            raise Refusal("two hospitals have the same key")
        ca, now = self._signer.ca if self._signer else None, datetime.now(UTC)
        for name, keys in call.keys.items():
            try:
                check_keys(keys, name, self._attempt, ca, now)
            except BadKeys as bad:
                raise Refusal(str(bad), name) from None

    def _sealed(self, name: str, of_seed: bytes, of_key: bytes) -> SealedShares:
        """Return shares for a neighbour, or for the hospital itself, which needs no box."""
        beside = digest(of_seed), digest(of_key)
        box = b""
        if name != self._name:
            key = self._sealing_key(name, self._name)
            box = seal(key, of_seed + of_key, b"".join(beside))
        return SealedShares(box=box, of_seed=beside[0], of_key=beside[1])

    def mask(self, call: MaskCall) -> bytes:
        """Return the update under its masks, as bytes.

        Raises:
            Refusal: It is not the time for it, too few have made shares, or some cannot be opened.
        """
        words, self._words = self._words, None  # whatever happens, it is not masked twice
        if words is None or not self._known:
            raise Refusal("there is no update to be masked in this attempt")
        least = self._least
        if not call.sealed.keys() <= self._known.keys() - {self._name}:
            raise Refusal("shares came of others than the hospital's neighbours")
        if len(call.sealed) + 1 < max(FEWEST, least):
            raise Refusal(f"only {len(call.sealed) + 1} of {least} neighbours have made shares")
        held = {self._name: self._own}
        for name, shares in call.sealed.items():
            held[name] = self._opened(name, shares)
            add_mask(words, self._mask_key_with(name), sign_of(self._name, name))
        add_mask(words, seed_key(self._self_seed, self._attempt), 1)
        self._held = held
        return words.astype("<u4", copy=False).tobytes()

    def _opened(self, name: str, shares: SealedShares) -> tuple[bytes, bytes]:
        """Return a neighbour's shares, which only one who has this attempt's keys can have sealed.

        Raises:
            Refusal: They are not what their hashes say.
        """
        try:
            both = unseal(
                self._sealing_key(self._name, name), shares.box, shares.of_seed + shares.of_key
            )
        except BadBox:
            both = b""
        of_seed, of_key = both[:SEED_BYTES], both[SEED_BYTES:]
        if (digest(of_seed), digest(of_key)) != (shares.of_seed, shares.of_key):
            raise Refusal(f"the shares of {name} cannot be opened", name)
        return of_seed, of_key

    def confirm(self, call: ConfirmCall) -> Confirmed:
        """Return the signed list of those in the sum; the hospital confirms one list alone.

        Raises:
            Refusal: It did so before, or the sum is of too few hospitals or of others.
        """
        survivors = set(call.survivors)
        near = survivors & self._held.keys()
        if self.survivors or not self._held:
            raise Refusal("there is nothing, or nothing more, to be confirmed in this attempt")
        if self._name not in survivors or not survivors <= set(self._names):
            raise Refusal("the sum is of others than those who were named")
        if len(survivors) < FEWEST or len(near) < self._least:
            few = f"{len(near)}, and {self._least} are needed"
            raise Refusal(f"the sum is of too few hospitals: {few}")
        if survivors & self._known.keys() - self._held.keys():
            raise Refusal("the sum is of hospitals that have made no shares")
        self.survivors = tuple(sorted(survivors))
        signature = signature_of(self._list_by(self._name), self._signer)
        return Confirmed(identity=self.identity, signature=signature)

    def reveal(self, call: RevealCall) -> Revealed:
        """Return shares of the seeds of those in the sum and of the keys of those who are not.

        Never both of one hospital, and once: after more than the threshold of the neighbours have
        confirmed the same list, so that no two lists of the same hospitals can be.

        Raises:
            Refusal: It was done before, or too few have confirmed the list.
        """
        if not self.survivors or not self._held:
            raise Refusal("there is nothing, or nothing more, to be revealed in this attempt")
        near = set(self.survivors) & self._held.keys()
        told = near & call.confirmed.keys()
        if self._signer is not None:
            told = {
                n for n in told if is_signed(self._list_by(n), call.confirmed[n], self._known[n])
            }
        if len(told | {self._name}) < self._least:
            few = f"{len(told | {self._name})} of {self._least} neighbours"
            raise Refusal(f"only {few} have confirmed the same list")
        held, self._held = self._held, {}
        return Revealed(
            identity=self.identity,
            seeds={name: held[name][0] for name in sorted(near)},
            keys={name: held[name][1] for name in sorted(held.keys() - near)},
        )

    @property
    def _least(self) -> int:
        """How many of those it masks with, itself among them, must stay to the end."""
        return needed(self._settings.threshold, len(self._known))

    def _list_by(self, name: str) -> bytes:
        about = self._attempt, self._names, self.terms.digest, self.survivors
        return list_of(*about, self._known[name])

    def _bond(self, other: str) -> bytes:
        pair = self._name, other
        return bond(self._attempt, self._names, self.terms.digest, self._known, pair)

    def _mask_key_with(self, other: str) -> bytes:
        return self._agreed(
            self._mask_key, other, self._known[other].mask, mask_of(self._bond(other))
        )

    def _sealing_key(self, reader: str, writer: str) -> bytes:
        other = reader if writer == self._name else writer
        about = context("seal", reader, writer, self._bond(other).hex())
        return self._agreed(self._seal_key, other, self._known[other].seal, about)

    @staticmethod
    def _agreed(key: X25519PrivateKey, other: str, public: bytes, about: bytes) -> bytes:
        try:
            return agree(key, public, about)
        except ValueError:
            raise Refusal(f"the key of {other} is none", other) from None
