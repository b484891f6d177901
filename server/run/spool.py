"""Updates on disk until they are aggregated: the replies of one attempt at a round."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from common.wire import Spec, State, unpack


class Spool:
    """Keeps blobs by the hospital's name, so that memory does not grow with their number.

    As a context manager: leaving the block removes everything.

    Args:
        folder: Made anew; whatever was in it is dropped.
        spec: What every blob holds.
    """

    def __init__(self, folder: Path, spec: Spec) -> None:
        self._folder = folder
        self._spec = spec
        self._drop()
        folder.mkdir()

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def put(self, name: str, blob: bytes) -> None:
        """Keep a blob that has been checked.

        Raises:
            OSError: The disk is full.
        """
        self._file(name).write_bytes(blob)

    def get(self, name: str) -> State:
        """Return a hospital's state."""
        return unpack(self._file(name).read_bytes(), self._spec)

    def tensors(self, names: Iterable[str]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Yield, tensor by tensor, its name and the hospitals' values, one row a hospital."""
        with ExitStack() as files:
            opened = [
                files.enter_context(safe_open(self._file(name), framework="numpy"))
                for name in names
            ]
            for tensor in self._spec:
                yield tensor, np.stack([file.get_tensor(tensor) for file in opened])

    def _drop(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"
