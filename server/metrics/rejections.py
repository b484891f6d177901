"""Why replies are rejected, in a few classes: a sentence makes no label."""

import re

from server.rounds.checks import DIVERGED

CLASSES = {
    "diverged": re.escape(DIVERGED),
    "failed": "failed at the hospital",
    "message": "answered ",
    "attempt": "answers another attempt",
    "claim": "claims |tells no (training loss|privacy spent)|its histograms are of",
    "weights": "tensor |the weights |not a safetensors blob|its update's norm|the scales of |"
    "not a whole zstd |the zstd frame |\\S+ changes are marked|a change is marked",
    "pace": "its update moved",
    "secure": "has no keys for|the keys |made shares |sent a masked |its masked |signed another |"
    "revealed shares |it shared another|it revealed other|\\d+ hospitals could not use",
    "barred": "it has no certificate|its certificate |the list has another certificate|"
    "the certificate of .* expired|.* (is not on the list|was revoked on|is excluded from) ",
}
"""How the sentences of a class begin, as a regular expression.

message: a reply that cannot be understood; attempt: one to another attempt; claim: numbers that
cannot be; pace: an update that is far too fast; secure: keys or shares of a secure sum; barred: the
hospital may not take part any more.
"""

OTHER = "other"
REASONS = (*CLASSES, OTHER)


def class_of(reason: str) -> str:
    """Return which of :data:`REASONS` a sentence belongs to."""
    return next((name for name, begin in CLASSES.items() if re.match(begin, reason)), OTHER)
