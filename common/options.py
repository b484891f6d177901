"""Values that several options, messages and files share; needs no torch."""

from typing import Literal

Architecture = Literal["densenet121", "densenet-tiny"]
"""``densenet-tiny`` is for tests of everything but learning."""

Mode = Literal["finetune", "linear"]
"""Train all weights, or the head on a frozen backbone."""
