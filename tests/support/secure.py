"""Secure sums in this very process: hospitals' state machines, and the server's beside them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random

import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding

from client.secure.sums import SecureSums
from common.message import Identity
from common.secure.halves import Words
from common.secure.keys import SignedKeys, Signer
from common.secure.messages import (
    SECURE_ANSWER,
    Confirmed,
    Declined,
    Masked,
    Revealed,
    SecureAnswer,
    SecureCall,
    Shares,
)
from common.secure.settings import SecureSettings
from common.secure.terms import Terms
from server.provision.certificates import Authority, issue_site, new_authority, new_key
from server.secure.aggregation import Aggregation, Improper

SETTINGS = SecureSettings(clip=4.0, films=1000, total=3000, threshold=2 / 3)

TERMS = Terms("0" * 64, "1" * 64)

Tamper = Callable[[str, SecureAnswer, bytes], tuple[SecureAnswer, bytes]]


def honest(_name: str, answer: SecureAnswer, blob: bytes) -> tuple[SecureAnswer, bytes]:
    return answer, blob


def identity_of(attempt: int = 1, number: int = 1) -> Identity:
    return Identity(run="test", round=number, attempt=attempt)


def names_of(count: int) -> list[str]:
    return [f"hospital-{i:02d}" for i in range(count)]


@dataclass
class Sums:
    """Hospitals that take part in secure sums, and all that the server sees of them.

    Attributes:
        hospitals: By name.
        late: Those whose masked updates the server has, too late for the sum.
        view: Every message and blob in both directions, in the server's order.
        declined: The last attempt's reasons, by name.
        improper: The same of what the server did not accept.
    """

    hospitals: dict[str, SecureSums]
    late: set[str] = field(default_factory=set)
    view: list[tuple[str, str, bytes]] = field(default_factory=list)
    declined: dict[str, Declined] = field(default_factory=dict)
    improper: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        names: Collection[str],
        signers: Mapping[str, Signer] | None = None,
        seed: int | None = None,
    ) -> "Sums":
        """Return hospitals; with a seed their secrets follow from it."""
        signers = signers or {}

        def sums(name: str) -> SecureSums:
            if seed is None:
                return SecureSums(name, lambda: signers.get(name))
            rng = Random(f"{seed}/{name}")  # noqa: S311 - a test
            return SecureSums(name, lambda: signers.get(name), rng.randbytes)

        return cls({name: sums(name) for name in names})

    def begin(
        self,
        updates: Mapping[str, Words],
        identity: Identity,
        settings: SecureSettings = SETTINGS,
        terms: Terms = TERMS,
    ) -> dict[str, SignedKeys]:
        """Let hospitals hold their updates and return their keys."""
        self.declined, self.improper = {}, {}
        keys = {}
        for name, words in updates.items():
            attempt = self.hospitals[name].begin(identity, settings, 5, terms)
            attempt.hold(words.copy())
            keys[name] = attempt.keys
        return keys

    def aggregate(
        self,
        updates: Mapping[str, Words],
        gone: Mapping[str, int] | None = None,
        identity: Identity | None = None,
        settings: SecureSettings = SETTINGS,
        tamper: Tamper = honest,
        changed: Callable[[str, SecureCall], SecureCall] = lambda _name, call: call,
    ) -> tuple[Words, list[str], Aggregation]:
        """Return the sum, who is in it, and the server's part.

        Args:
            updates: By the hospital's name.
            gone: Before which step a hospital goes away: 1 shares, 2 masked update, 3 confirms,
                4 reveals.
            identity: Of the attempt.
            settings: Of the attempt.
            tamper: Changes what a hospital answers.
            changed: Changes what a hospital is asked.
        """
        server = self.started(updates, identity or identity_of(), settings)
        self.until_revealed(server, gone or {}, tamper, changed)
        return *server.result(), server

    def started(
        self,
        updates: Mapping[str, Words],
        identity: Identity,
        settings: SecureSettings = SETTINGS,
    ) -> Aggregation:
        """Return the server's part of an attempt that all have begun."""
        keys = self.begin(updates, identity, settings)
        length = len(next(iter(updates.values())))
        return Aggregation(identity, keys, settings, 5, TERMS.digest, length)

    def until_revealed(
        self,
        server: Aggregation,
        gone: Mapping[str, int],
        tamper: Tamper = honest,
        changed: Callable[[str, SecureCall], SecureCall] = lambda _name, call: call,
    ) -> None:
        """Go through all steps but the last one, which is the server's own."""
        steps: tuple[Callable[[], Mapping[str, SecureCall]], ...] = (
            server.share_calls,
            server.mask_calls,
            server.confirm_calls,
            server.reveal_calls,
        )
        for step, calls in enumerate(steps, start=1):
            for name, call in calls().items():
                if gone.get(name, 5) > step:
                    self._ask(server, name, changed(name, call), tamper)

    def _ask(self, server: Aggregation, name: str, call: SecureCall, tamper: Tamper) -> None:
        answer, blob = tamper(name, *self.hospitals[name].answer(call))
        text = answer.model_dump_json()
        self.view += [(name, call.model_dump_json(), b""), (name, text, blob)]
        answer = SECURE_ANSWER.validate_json(text)
        try:
            match answer:
                case Shares():
                    server.add_shares(name, answer)
                case Masked():
                    if name not in self.late:
                        server.add_update(name, blob)
                case Confirmed():
                    server.add_confirmed(name, answer)
                case Revealed():
                    server.add_revealed(name, answer)
                case Declined():
                    self.declined[name] = answer
        except Improper as improper:
            self.improper[name] = str(improper)


def random_updates(names: Collection[str], seed: int, length: int = 7) -> dict[str, Words]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 2**32, length, np.uint32) for name in names}


def plain_sum(updates: Mapping[str, Words], names: Collection[str]) -> Words:
    """Return the sum modulo 2^32, word by word, in Python's integers."""
    columns = zip(*(updates[name].tolist() for name in names), strict=True)
    return np.array([sum(column) % 2**32 for column in columns], np.uint32)


def signers_of(
    names: Collection[str], authority: Authority | None = None, days: int = 30
) -> dict[str, Signer]:
    """Return who signs for each hospital, with certificates of one authority."""
    now = datetime.now(UTC)
    authority = authority or new_authority(now, 30)
    signers = {}
    for name in names:
        key = new_key()
        certificate = issue_site(authority, key.public_key(), name, now, days)
        signers[name] = Signer(key, certificate.public_bytes(Encoding.DER), authority.certificate)
    return signers
