"""Who signs a hospital's keys: its kit, read again each time, since it may be renewed."""

from datetime import UTC, datetime
from pathlib import Path

from client.kit import read_kit
from common.secure.keys import Signer


def signer_of(kit: Path | None, name: str) -> Signer | None:
    """Return the signer of a kit; None without one.

    Args:
        kit: The folder.
        name: The hospital's.

    Raises:
        BadInput: The kit cannot be used, or is another hospital's.
    """
    if kit is None:
        return None
    known = read_kit(kit, datetime.now(UTC), name)
    return Signer.of(known.pair, known.ca)
