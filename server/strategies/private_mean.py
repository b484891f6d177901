"""The mean of updates under differential privacy of each hospital.

With the hospitals' changes d of the parameters, n of them, each shortened to the bound S::

    x' = x + (sum of d min(1, S / |d|) + z S N(0, 1)) / n

McMahan et al., "Learning Differentially Private Recurrent Language Models", ICLR 2018. All
hospitals count the same. Neighbours differ by one hospital whose part in the sums is its own or
zero; n is no secret. With a quantile q the bound follows the norms (Andrew et al., "Differentially
Private Learning with Adaptive Clipping", NeurIPS 2021, algorithm 1)::

    S' = S exp(-0.2 ((updates no longer than S + noise) / n - q))

where the noise of the two sums is such that both together cost what z alone would. A hospital's
part in the second sum is 1/2 or -1/2, to which n/2 is added. Buffers stay as
they were: with ``--dp`` hospitals do not change them.
"""

import hashlib
import math
import secrets
from pathlib import Path

import numpy as np

from common.options import LEAST_CLIP, MOST_CLIP
from common.runtime.files import write_whole
from common.secret_stream import SecretStream
from common.state import State, parameters_of
from server.strategies.base import RoundInfo, Strategy, Updates

ADAPTING = 0.2
"""How fast the bound follows: eta_C in section 3 of Andrew et al."""

OF_BOUND = 0.05
"""By how much the noise of the changes grows to pay for that of the count."""


class PrivateMean(Strategy):
    """The noisy mean of shortened updates.

    Args:
        quantile: Of the updates' norms, which the bound follows; None: the bound stays.
        key: File with the secret that the noise is made of; made with the first noise.
    """

    def __init__(self, quantile: float | None, key: Path) -> None:
        self._quantile = quantile
        self._key = key
        self._bound: float | None = None

    def combine(self, before: State, updates: Updates, about: RoundInfo) -> State:
        """Return the noisy mean.

        Raises:
            OSError: The secret cannot be read or written.
        """
        training = about.training
        bound = self._bound or training.dp_clip
        total = {name: np.zeros(array.shape) for name, array in parameters_of(before).items()}
        within = 0
        for update in updates:
            change = {
                name: update.weights[name] - array.astype(np.float64)
                for name, array in parameters_of(before).items()
            }
            norm = math.sqrt(sum(float(np.vdot(each, each)) for each in change.values()))
            share = min(1.0, bound / norm) if norm else 1.0
            within += norm <= bound
            for name, each in change.items():
                total[name] += share * each
        stream = self._stream(about.number, within, total)
        noise = training.dp_noise
        if self._quantile is not None:
            noise *= 1 + OF_BOUND
        count = len(updates.infos)
        after = dict(before)
        for name, each in total.items():
            drawn = stream.normal(each.size).reshape(each.shape)
            mean = (each + noise * bound * drawn) / count
            after[name] = np.asarray(before[name] + mean, before[name].dtype)
        if self._quantile is not None:
            counted = within + count_noise(training.dp_noise) * stream.normal(1)[0]
            moved = bound * math.exp(-ADAPTING * (counted / count - self._quantile))
            self._bound = min(MOST_CLIP, max(LEAST_CLIP, moved))
        return after

    def state_dict(self) -> State:
        """Return the bound, if it has moved."""
        return {} if self._bound is None else {"bound": np.array(self._bound)}

    def load_state_dict(self, state: State) -> None:
        """Go on with a bound."""
        self._bound = float(state["bound"]) if state else None

    def _stream(self, number: int, within: int, total: State) -> SecretStream:
        """Return the noise of exactly these sums, so that a repeated round has the same."""
        purpose = hashlib.sha256(f"{number} {within}".encode())
        for name, each in sorted(total.items()):
            purpose.update(name.encode())
            purpose.update(each.tobytes())
        return SecretStream(self._secret(), purpose.digest())

    def _secret(self) -> bytes:
        if not self._key.exists():
            secret = secrets.token_bytes(32)
            write_whole(self._key, lambda file: file.write(secret), mode=0o600)
        return self._key.read_bytes()


def count_noise(noise: float) -> float:
    """Return the deviation of the noise of the count of updates within the bound.

    Andrew et al., theorem 1: the deviations z_d of the changes' noise, as a multiple of the bound,
    and s of the count's cost together what z alone would, where z^-2 = z_d^-2 + (2 s)^-2.

    Args:
        noise: What both cost together, z.
    """
    return noise / (2 * math.sqrt(1 - (1 + OF_BOUND) ** -2))
