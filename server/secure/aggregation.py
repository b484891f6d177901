"""The server's part in one secure sum, step by step: it passes on, adds up and takes masks away.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017,
section 5, with hospitals that have trained already. It knows no transport.
"""

from collections.abc import Collection, Mapping

import numpy as np

from common.message import Identity
from common.secure.graph import neighbourhoods
from common.secure.halves import Words
from common.secure.keys import SignedKeys, bond, is_signed, list_of
from common.secure.masks import add_mask, agree, mask_of, private_key, public_of, seed_key, sign_of
from common.secure.messages import (
    ConfirmCall,
    Confirmed,
    MaskCall,
    RevealCall,
    Revealed,
    ShareCall,
    Shares,
)
from common.secure.settings import FEWEST, SecureSettings
from common.secure.shares import digest, join, needed
from common.wire import Blob


class NoSum(Exception):  # noqa: N818 - a verdict, not a fault
    """An attempt has come to no sum; says why."""


class Improper(Exception):  # noqa: N818 - a verdict, not a fault
    """A hospital's answer is not what was asked for; says why."""


class Aggregation:
    """One sum: who is in it, and what they have sent.

    Args:
        identity: Of the attempt.
        keys: Of the hospitals that have an update, checked, by name.
        settings: Of the attempt.
        seed: The run's, for the graph.
        terms: Digest of what all hospitals were told.
        length: Of an update, in words.

    Attributes:
        names: All hospitals, sorted.
        in_sum: Those whose masked updates have come.
        liars: Why a hospital is known to have lied about shares, by name.
    """

    def __init__(
        self,
        identity: Identity,
        keys: Mapping[str, SignedKeys],
        settings: SecureSettings,
        seed: int,
        terms: str,
        length: int,
    ) -> None:
        self.names = sorted(keys)
        self.liars: dict[str, str] = {}
        self._identity = identity
        self._attempt = identity.model_dump()
        self._keys = keys
        self._settings = settings
        self._terms = terms
        self._near = neighbourhoods(self.names, seed, identity.round, identity.attempt)
        self._shares: dict[str, Shares] = {}
        self._sum: Words = np.zeros(length, np.uint32)
        self.in_sum: set[str] = set()
        self._confirmed: dict[str, bytes] = {}
        self._seeds: dict[str, dict[str, bytes]] = {}  # shares by whose they are, by who held them
        self._key_seeds: dict[str, dict[str, bytes]] = {}

    def others_near(self, name: str) -> int:
        """Return with how many others a hospital masks; 0: it is none of them."""
        return len(self._near.get(name, [name])) - 1

    def share_calls(self) -> dict[str, ShareCall]:
        """Return what each hospital is asked first.

        Raises:
            NoSum: There are too few hospitals.
        """
        if len(self.names) < FEWEST:
            raise NoSum(f"{len(self.names)} hospitals make no secure sum, {FEWEST} do")
        names = tuple(self.names)
        return {
            name: ShareCall(
                identity=self._identity,
                names=names,
                keys={other: self._keys[other] for other in self._near[name]},
            )
            for name in self.names
        }

    def add_shares(self, name: str, shares: Shares) -> None:
        """Take in what a hospital has shared.

        Raises:
            Improper: It is not for its neighbours, or came before.
        """
        if name in self._shares:
            raise Improper("made shares twice")
        if sorted(shares.sealed) != self._near[name]:
            raise Improper("made shares for others than its neighbours")
        self._shares[name] = shares

    def mask_calls(self) -> dict[str, MaskCall]:
        """Return what those are asked next who have made shares."""
        return {
            name: MaskCall(
                identity=self._identity,
                sealed={
                    other: self._shares[other].sealed[name]
                    for other in self._near[name]
                    if other in self._shares and other != name
                },
            )
            for name in sorted(self._shares)
        }

    def add_update(self, name: str, blob: Blob) -> None:
        """Add a masked update to the sum.

        Raises:
            Improper: It has another length, or was added before.
        """
        if len(blob) != 4 * self._sum.size or name not in self._shares or name in self.in_sum:
            raise Improper(f"sent a masked update of {len(blob)} bytes, not {4 * self._sum.size}")
        self._sum += np.frombuffer(blob, "<u4")
        self.in_sum.add(name)

    def confirm_calls(self) -> dict[str, ConfirmCall]:
        """Return what those in the sum are asked next.

        Raises:
            NoSum: They are too few.
        """
        survivors = tuple(sorted(self.in_sum))
        self._check_enough(self.in_sum, "sent masked updates")
        call = ConfirmCall(identity=self._identity, survivors=survivors)
        return dict.fromkeys(survivors, call)

    def add_confirmed(self, name: str, confirmed: Confirmed) -> None:
        """Take in that a hospital was told who is in the sum.

        Raises:
            Improper: It has signed something else.
        """
        keys, survivors = self._keys[name], sorted(self.in_sum)
        content = list_of(self._attempt, self.names, self._terms, survivors, keys)
        if keys.certificate and not is_signed(content, confirmed.signature, keys):
            raise Improper("signed another list of hospitals than it was shown")
        self._confirmed[name] = confirmed.signature

    def check_confirmed(self) -> None:
        """Check that those who have confirmed the list can take the masks away.

        Raises:
            NoSum: They are too few.
        """
        self._check_enough(self._confirmed.keys(), "confirmed who is in the sum")

    def _check_enough(self, left: Collection[str], done: str) -> None:
        """Check that enough hospitals are left near each whose secrets are to be put together."""
        came = f"{len(left)} of {len(self.names)} hospitals have {done}"
        if len(left) < FEWEST:
            raise NoSum(f"{came}, {FEWEST} are needed")
        for name in sorted(self._shares):
            near, least = len(set(self._near[name]).intersection(left)), self._needed(name)
            if near < least:
                raise NoSum(f"{came}, {near} of those near {name}, where {least} are needed")

    def reveal_calls(self) -> dict[str, RevealCall]:
        """Return what those are asked last who have confirmed the list."""
        return {
            name: RevealCall(
                identity=self._identity,
                confirmed={
                    other: self._confirmed[other]
                    for other in self._near[name]
                    if other in self._confirmed and other != name
                },
            )
            for name in sorted(self._confirmed)
        }

    def add_revealed(self, name: str, revealed: Revealed) -> None:
        """Take in shares that a hospital has held, those that are as they were dealt.

        A hospital that returns others has lied: it has opened the box in which they lay beside
        their hashes, or it would have declined.

        Raises:
            Improper: They are not those that it was asked for, or others than it was given.
        """
        near = {other for other in self._near[name] if other in self._shares}
        asked = near & self.in_sum, near - self.in_sum
        if (set(revealed.seeds), set(revealed.keys)) != asked:
            raise Improper("revealed shares of others than it was asked for")
        false = False
        for other, share in {**revealed.seeds, **revealed.keys}.items():
            dealt = self._shares[other].sealed[name]
            of_seed = other in self.in_sum
            if digest(share) == (dealt.of_seed if of_seed else dealt.of_key):
                known = self._seeds if of_seed else self._key_seeds
                known.setdefault(other, {})[name] = share
            else:
                false = True
        if false:
            self.liars[name] = "it revealed other shares than it was given"
            raise Improper(self.liars[name])

    def result(self) -> tuple[Words, list[str]]:
        """Return the sum without masks, and the names of those in it.

        Raises:
            NoSum: Shares are missing, or a hospital has shared something else than its secrets; it
                is among the liars then.
        """
        seeds, keys = self._recovered()
        words = self._sum
        for seed in seeds.values():
            add_mask(words, seed_key(seed, self._attempt), -1)
        for name, key_seed in keys.items():
            private = private_key(key_seed)
            for other in self.in_sum & set(self._near[name]):
                pair = name, other
                about = mask_of(bond(self._attempt, self.names, self._terms, self._keys, pair))
                key = agree(private, self._keys[other].mask, about)
                add_mask(words, key, -sign_of(other, name))
        return words, sorted(self.in_sum)

    def _recovered(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Return the seeds of those in the sum, and what the keys of the others are made of."""
        gone = sorted(self._shares.keys() - self.in_sum)
        seeds = {name: self._joined(name, self._seeds) for name in sorted(self.in_sum)}
        keys = {name: self._joined(name, self._key_seeds) for name in gone}
        false = [name for name in seeds if digest(seeds[name]) != self._shares[name].seed]
        false += [
            name for name in gone if public_of(private_key(keys[name])) != self._keys[name].mask
        ]
        if false:
            self.liars |= dict.fromkeys(false, "it shared another secret than it announced")
            raise NoSum(f"the masks of {', '.join(false)} cannot be taken away")
        return seeds, keys

    def _joined(self, name: str, known: Mapping[str, Mapping[str, bytes]]) -> bytes:
        shares, least = known.get(name, {}), self._needed(name)
        if len(shares) < least:
            raise NoSum(f"{len(shares)} shares of a secret of {name} came, {least} are needed")
        return join(shares, least, self._near[name])

    def _needed(self, name: str) -> int:
        return needed(self._settings.threshold, len(self._near[name]))
