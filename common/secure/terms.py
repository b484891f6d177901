"""What a server must have told all hospitals of a sum alike, for their masks to cancel.

Hospitals that were told something else have no keys in common. Else a server could have all but one
of them train on nothing, or count for nothing, and read that one's update off the sum: Pasquini et
al., "Eluding Secure Aggregation in Federated Learning via Model Inconsistency", CCS 2022.
"""

import hashlib
from typing import NamedTuple

from common.protocol import Instruction
from common.secure.masks import context
from common.state import State
from common.wire import fingerprint, pack


class Terms(NamedTuple):
    """The terms of an attempt.

    Attributes:
        digest: Of all of them.
        model: Hash of what is trained and shared.
    """

    digest: str
    model: str


def terms_of(instruction: Instruction, trained: State, backbone: str | None) -> Terms:
    """Return the terms of an attempt, the same at the server and at each hospital.

    Args:
        instruction: What the hospital is to do.
        trained: What is trained and shared, as it was received.
        backbone: Hash of the frozen backbone, if it is frozen.
    """
    model = fingerprint(pack(trained))
    told = instruction.model_dump(
        mode="json", include={"training", "secure", "architecture", "seed"}
    )
    return Terms(hashlib.sha256(context(told, model, backbone)).hexdigest(), model)
