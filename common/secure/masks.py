"""Agreement on keys, what is sealed with them, and the masks that are drawn from them.

All of it is made of `cryptography`'s parts: X25519 (RFC 7748), HKDF-SHA256 (RFC 5869),
ChaCha20-Poly1305 (RFC 8439), and AES-256 in counter mode as the generator of masks. A key serves
one purpose in one attempt, so that nonces and counters begin at zero.
"""

import json
from collections.abc import Mapping

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.secure.halves import Words

SEED_BYTES = 16
"""Of a secret that is shared, 128 bits: the block of the library that shares it, and the strength
of X25519."""

KEY_BYTES = 32

CHUNK = 1 << 18
"""Words of a mask that are made at once."""


class BadBox(ValueError):  # noqa: N818 - a verdict, not a fault
    """What came sealed was not sealed by whom it should be, or for something else."""


def context(*parts: object) -> bytes:
    """Return what a key, a signature or a box belongs to, as bytes; no two contexts have the same.

    Args:
        parts: Texts, numbers, and lists of these.
    """
    return json.dumps(parts, separators=(",", ":")).encode()


def derive(secret: bytes, about: bytes) -> bytes:
    """Return a key of 32 bytes that is made of a secret for one purpose."""
    return HKDF(SHA256(), KEY_BYTES, None, b"fedcxr secure aggregation 1 " + about).derive(secret)


def private_key(seed: bytes) -> X25519PrivateKey:
    """Return the key pair that follows from a seed, of which shares are given away."""
    return X25519PrivateKey.from_private_bytes(derive(seed, context("private key")))


def public_of(key: X25519PrivateKey) -> bytes:
    """Return the public key of a pair."""
    return key.public_key().public_bytes_raw()


def agree(key: X25519PrivateKey, other: bytes, about: bytes) -> bytes:
    """Return the key that two pairs have in common for one purpose.

    Args:
        key: One's own pair.
        other: The other's public key.
        about: The purpose; see :func:`context`.

    Raises:
        ValueError: The other key is one of those of which nothing secret can come.
    """
    return derive(key.exchange(X25519PublicKey.from_public_bytes(other)), about)


def mask_of(bond: bytes) -> bytes:
    """Return the purpose of the key from which two hospitals draw the mask that they share.

    Args:
        bond: What they agree on; see :func:`common.secure.keys.bond`.
    """
    return context("mask", bond.hex())


def sign_of(name: str, other: str) -> int:
    """Return how a hospital applies the mask that it shares with another: 1 adds, -1 subtracts."""
    return 1 if name < other else -1


def seed_key(seed: bytes, attempt: Mapping[str, object]) -> bytes:
    """Return the key of the mask that a hospital has for itself.

    Args:
        seed: Its secret.
        attempt: Run, round and attempt.
    """
    return derive(seed, context("self", attempt))


def add_mask(words: Words, key: bytes, sign: int) -> None:
    """Add the mask of a key to words, or take it away, in place and modulo 2^32.

    Args:
        words: Of an update or of a sum.
        key: 32 bytes that are used for this alone.
        sign: 1 or -1.
    """
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    zeros = bytes(4 * min(CHUNK, words.size))
    for at in range(0, words.size, CHUNK):
        part = words[at : at + CHUNK]
        mask = np.frombuffer(stream.update(zeros[: 4 * part.size]), "<u4")
        (np.add if sign > 0 else np.subtract)(part, mask, out=part)


def seal(key: bytes, content: bytes, beside: bytes) -> bytes:
    """Return content that only the key's other holder can read, and not as beside anything else.

    Args:
        key: 32 bytes that seal this alone.
        content: To be hidden.
        beside: What lies open beside it, and must not be changed.
    """
    return ChaCha20Poly1305(key).encrypt(bytes(12), content, beside)


def unseal(key: bytes, box: bytes, beside: bytes) -> bytes:
    """Undo :func:`seal`.

    Raises:
        BadBox: It was not sealed with this key beside this.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), box, beside)
    except InvalidTag:
        raise BadBox("it cannot be opened") from None
