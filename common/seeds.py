"""Random generators: every draw is a function of (seed, purpose, round, hospital).

No global generator is read or set, so a repeated round gives the same bytes.
"""

import hashlib

import numpy as np


def _hash(text: str) -> int:
    """Return a 64-bit hash of a text, the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def generator(
    seed: int, purpose: str, round_number: int = 0, site: str = ""
) -> np.random.Generator:
    """Return the random generator for one purpose.

    Args:
        seed: The run's seed, at least 0.
        purpose: Use of the draws, such as ``"order"`` or ``"crop"``; two purposes never share a
            stream.
        round_number: The round, at least 0.
        site: The hospital's name.

    Returns:
        A PCG64 generator seeded by ``SeedSequence([seed, purpose, round, site])``.
    """
    entropy = [seed, _hash(purpose), round_number, _hash(site)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def patient_fraction(seed: int, patient: str) -> float:
    """Return a number in [0, 1) that depends only on the seed and the patient.

    A patient below a threshold is in validation, independent of the other patients.
    """
    return _hash(f"{seed}/{patient}") / 2**64
