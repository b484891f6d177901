"""Randomness as a function: every draw follows from (seed, purpose, round, hospital).

No global generator is read or set, so a round that is repeated gives the same bytes.
"""

import hashlib

import numpy as np


def _word(text: str) -> int:
    """Return 64 bits that stand for a text, the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def generator(
    seed: int, purpose: str, round_number: int = 0, site: str = ""
) -> np.random.Generator:
    """Return the generator for one purpose.

    Args:
        seed: The run's seed, at least 0.
        purpose: What the draws are for, such as ``"order"`` or ``"crop"``; two purposes never
            share a stream.
        round_number: The round, at least 0.
        site: The hospital's name.

    Returns:
        A PCG64 generator seeded by ``SeedSequence([seed, purpose, round, site])``.
    """
    entropy = [seed, _word(purpose), round_number, _word(site)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def patient_fraction(seed: int, patient: str) -> float:
    """Return a number in [0, 1) that depends on the seed and the patient alone.

    A patient below a threshold belongs to validation, whatever else is in the shard.
    """
    return _word(f"{seed}/{patient}") / 2**64
