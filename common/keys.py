"""A hospital's key: Ed25519, by whose signatures the server knows who speaks.

The private half is a file of mode 600 at the hospital and never leaves it; the public half is
32 bytes, written as base64 in the server's list of hospitals.
"""

import base64
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import BadInput
from common.runtime.files import write_whole

PUBLIC_BYTES = 32
"""Length of a public key."""


def new_key() -> Ed25519PrivateKey:
    """Return a new private key."""
    return Ed25519PrivateKey.generate()


def write_key(path: Path, key: Ed25519PrivateKey | EllipticCurvePrivateKey) -> None:
    """Write a private key, a hospital's or a certificate's, for its owner alone (mode 600).

    Raises:
        OSError: The file cannot be written.
    """
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_whole(path, lambda file: file.write(pem), mode=0o600)


def read_key(path: Path) -> Ed25519PrivateKey:
    """Read a hospital's private key.

    Raises:
        BadInput: It is missing, not a private Ed25519 key, or others than its owner may use it.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        pem = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be read: {error.strerror}; a hospital's key comes with its kit"
        ) from None
    if mode & 0o077:
        raise BadInput(f"{path}: others than its owner may use it (mode {mode:o}); chmod 600 it")
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{path}: not a private Ed25519 key in PEM; ask for a new kit")
    return key


def public_text(key: Ed25519PrivateKey) -> str:
    """Return the public half of a key: base64 of its 32 bytes."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def sign(key: Ed25519PrivateKey, message: bytes) -> str:
    """Return the signature of a message: base64 of 64 bytes."""
    return base64.b64encode(key.sign(message)).decode()


def verifies(public: str, message: bytes, signature: str) -> bool:
    """Return whether a signature is the key owner's, whatever the texts hold.

    Args:
        public: As :func:`public_text` returns it.
        message: What was signed.
        signature: As :func:`sign` returns it.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(decode_public(public))
        key.verify(_decode(signature), message)
    except (ValueError, InvalidSignature):
        return False
    return True


def decode_public(text: str) -> bytes:
    """Return the 32 bytes of a public key.

    Raises:
        ValueError: The text is not base64 of 32 bytes.
    """
    raw = _decode(text)
    if len(raw) != PUBLIC_BYTES:
        raise ValueError(f"not base64 of {PUBLIC_BYTES} bytes")
    return raw


def _decode(text: str) -> bytes:
    """Return what base64 stands for; unlike the library's, takes one text for each content."""
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError("not base64")
    return raw
