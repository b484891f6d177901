"""Secrets in shares, of which some are enough: Shamir, "How to Share a Secret", CACM 1979.

PyCryptodome does it in GF(2^128). Each share is published as its hash, so that a holder who returns
another one is known, and so is whoever shared something else than the secret.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence

from Crypto.Protocol.SecretSharing import Shamir


def needed(threshold: float, holders: int) -> int:
    """Return how many shares recover a secret.

    Args:
        threshold: More than this share of the holders, at least a half.
        holders: Of one share each.
    """
    return min(holders, math.floor(threshold * holders) + 1)


def split(secret: bytes, count: int, holders: Sequence[str]) -> dict[str, bytes]:
    """Return a share of 16 bytes for each holder.

    Args:
        secret: Of 16 bytes.
        count: Shares that recover it.
        holders: Their names, in an order that :func:`join` is given again.
    """
    shares = Shamir.split(count, len(holders), secret, ssss=False)
    return {holders[index - 1]: share for index, share in shares}


def join(shares: Mapping[str, bytes], count: int, holders: Sequence[str]) -> bytes:
    """Return the secret in shares: something else if they are not as they were dealt.

    Args:
        shares: By the holder's name, at least ``count``.
        count: Shares that recover it.
        holders: As they were when it was split.
    """
    chosen = sorted(shares, key=holders.index)[:count]
    return Shamir.combine([(holders.index(each) + 1, shares[each]) for each in chosen], ssss=False)


def digest(secret: bytes) -> bytes:
    """Return what is published of a share or a seed; of random ones it tells nothing."""
    return hashlib.sha256(secret).digest()
