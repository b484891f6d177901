"""What a way to encode parameters is."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from common.state import Spec, State


class Codec(NamedTuple):
    """How the changes of parameters are encoded, all float32.

    Attributes:
        spec: Returns what is encoded of parameters, by theirs.
        encode: Returns parameters encoded, rounded with the generator.
        decode: Undoes it, given the parameters' specification; raises
            :class:`common.wire.WireError` for what is not encoded parameters.
    """

    spec: Callable[[Spec], Spec]
    encode: Callable[[State, np.random.Generator], State]
    decode: Callable[[State, Spec], State]
