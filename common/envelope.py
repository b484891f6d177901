"""Weights at the end of a protobuf message, put there and taken out without protobuf's copies.

Flower has the weights in a field of a field of a field, and protobuf copies them at each of these,
into the message and out of it. Here all else is serialised by protobuf, and a second occurrence of
the outermost field with nothing but the weights follows. A reader merges the two, so that any
protobuf library understands the whole:
https://protobuf.dev/programming-guides/encoding/#last-one-wins
"""

from typing import Generic, NamedTuple, TypeVar

from common.wire import Blob

M = TypeVar("M")

TENSORS, TENSOR_TYPE = 1, 2
"""Fields of Flower's ``Parameters``."""

KIND = b"safetensors"
"""Of the tensors. Blanks that follow let the weights begin at a multiple of :data:`ALIGNMENT`."""

ALIGNMENT = 8

FIELDS = 8
"""Of one message, at most, that are passed over in search of the weights."""

BYTES = 2
"""Protobuf's wire type of what has a length."""


class Envelope(NamedTuple, Generic[M]):
    """A message, and the weights that travel with it; empty: none do."""

    message: M
    weights: Blob = b""


def enclosed(message: bytes, path: tuple[int, ...], weights: Blob) -> bytes:
    """Return a serialised message with weights at its end; they are copied once.

    Args:
        message: Without ``Parameters``.
        path: Numbers of the fields that lead to its ``Parameters``, from the outermost on.
        weights: To enclose.
    """
    for blanks in range(ALIGNMENT):
        kind = KIND + b" " * blanks
        head = _head(TENSOR_TYPE, len(kind)) + kind + _head(TENSORS, len(weights))
        for field in reversed(path):
            head = _head(field, len(head) + len(weights)) + head
        if (len(message) + len(head)) % ALIGNMENT == 0:
            break
    return b"".join((message, head, weights))


def opened(data: bytes, path: tuple[int, ...]) -> tuple[bytes, memoryview] | None:
    """Undo :func:`enclosed`; return the message, and the weights where they are.

    None: no weights are at the end; protobuf may find them elsewhere.
    """
    view, rest, start = memoryview(data), len(data), 0
    for level, field in enumerate((*path, TENSORS)):
        start = _last(view, start, field)
        if not start:
            return None
        if not level:
            rest = start - len(_head(field, len(data) - start))
    return data[:rest], view[start:]


def _last(view: memoryview, at: int, field: int) -> int:
    """Return where the content of the last field begins, if it is the given one; 0: it is not."""
    for _ in range(FIELDS):
        if at >= len(view):
            return 0
        tag, size, shift, at = view[at], 0, 0, at + 1
        while shift < 35 and at < len(view):
            byte, at = view[at], at + 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if tag & 7 != BYTES or at + size > len(view):
            return 0
        if at + size == len(view):
            return at if tag == field << 3 | BYTES else 0
        at += size
    return 0


def _head(field: int, size: int) -> bytes:
    """Return what stands before the content of a field: its number below 16, and its length."""
    head = bytearray([field << 3 | BYTES])
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head)
