"""Files of tensors: written whole or not at all, and read without running what is in them.

``torch.load(weights_only=True)`` builds only tensors and plain containers.
"""

import io
import re
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from common.runtime.files import write_whole

OBJECT = re.compile(r"GLOBAL ([\w.]+)")
"""torch's name for the first object in a pickle that is neither a tensor nor a plain value."""

LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors header, by its specification."""


class HoldsObjects(ValueError):  # noqa: N818 - named for what it is
    """A file has objects, whose loading could run code; the message names the first one's class."""


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write a dict of tensors and plain values atomically: fsynced, then renamed into place.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    try:
        write_whole(path, lambda file: torch.save(content, file))
    except RuntimeError as error:
        # torch hides the reason, even a signal, behind an error of its archive writer.
        reason = error.__context__
        if isinstance(reason, OSError):
            reason.filename = str(path)
        if isinstance(reason, OSError) or (reason and not isinstance(reason, Exception)):
            raise reason from None
        raise


def read_tensors(path: Path) -> Any:
    """Read a file of :func:`write_tensors`, or of safetensors, onto the CPU.

    Raises:
        OSError: The file cannot be read.
        HoldsObjects: The file has more than tensors and plain values.
        ValueError: The file is truncated or damaged.
    """
    content = path.read_bytes()
    try:
        if _is_safetensors(content):
            return safetensors.torch.load(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error says it too
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch can raise anything for a damaged file
        found = OBJECT.search(str(error))
        if found or "TorchScript" in str(error):
            raise HoldsObjects(found[1] if found else "TorchScript") from None
        raise ValueError("no tensors") from None


def _is_safetensors(content: bytes) -> bool:
    """Return whether a file begins with the length of a JSON object, and the object."""
    return content[8:9] == b"{" and int.from_bytes(content[:8], "little") <= LARGEST_HEADER
