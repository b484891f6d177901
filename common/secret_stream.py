"""Noise and draws that nobody outside the hospital can repeat."""

import hashlib
import hmac

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Floats = npt.NDArray[np.float64]


class SecretStream:
    """Random numbers that are a function of a secret and of what they are for.

    Every other draw of a run follows from its seed, which the server and all hospitals know: noise
    from it could be taken away again. numpy's generators are not made to keep their state from
    those who see their output, so the bits are those of AES-256 in counter mode (NIST SP 800-38A,
    6.5), under HMAC-SHA256 of the secret and the purpose.

    Args:
        secret: 32 random bytes.
        purpose: What the numbers are for; the same purpose gives the same numbers.
    """

    def __init__(self, secret: bytes, purpose: bytes) -> None:
        key = hmac.digest(secret, purpose, hashlib.sha256)
        self._bits = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def uniform(self, count: int) -> Floats:
        """Return so many numbers in [0, 1), multiples of 2^-53."""
        words = np.frombuffer(self._bits.update(bytes(8 * count)), "<u8")
        return np.asarray((words >> np.uint64(11)) * 2.0**-53, np.float64)

    def normal(self, count: int) -> Floats:
        """Return so many standard normal numbers; Box and Muller, Ann. Math. Stat. 29 (1958)."""
        radius, angle = self.uniform(2 * ((count + 1) // 2)).reshape(2, -1)
        length = np.sqrt(-2 * np.log(1 - radius))
        turn = 2 * np.pi * angle
        return np.concatenate([length * np.cos(turn), length * np.sin(turn)])[:count]
