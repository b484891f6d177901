"""Updates on disk until they are aggregated: the replies of one attempt at a round."""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from common.state import Spec
from common.wire import Blob, unpack
from server.strategies.base import Update, UpdateInfo


class Spool:
    """Keeps blobs by the hospital's name, so that memory does not grow with their number.

    Files of earlier attempts are written over, which takes half of the time of new ones.

    Args:
        folder: Theirs.
        spec: What every blob holds: the weights that hospitals return.
    """

    def __init__(self, folder: Path, spec: Spec) -> None:
        self._folder = folder
        self._spec = spec
        self._infos: dict[str, UpdateInfo] = {}
        folder.mkdir(exist_ok=True)

    def put(self, name: str, blob: Blob, info: UpdateInfo) -> None:
        """Keep a blob that has been checked.

        Raises:
            OSError: The disk is full.
        """
        descriptor = os.open(self._file(name), os.O_WRONLY | os.O_CREAT, 0o666)
        with os.fdopen(descriptor, "wb") as file:  # passes what is larger than its buffer on
            file.write(blob)
            file.truncate()
        self._infos[name] = info

    def updates(self, names: Collection[str]) -> "SpooledUpdates":
        """Return the updates of these hospitals."""
        infos = {name: self._infos[name] for name in sorted(names)}
        return SpooledUpdates({name: self._file(name) for name in infos}, infos, self._spec)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"


class SpooledUpdates:
    """Updates as files; see :class:`server.strategies.base.Updates`.

    Args:
        files: By the hospital's name, sorted.
        infos: The same.
        spec: What each file holds.
    """

    def __init__(self, files: dict[str, Path], infos: Mapping[str, UpdateInfo], spec: Spec) -> None:
        self.infos = infos
        self._files = files
        self._spec = spec

    def __iter__(self) -> Iterator[Update]:
        for name, file in self._files.items():
            blob = np.memmap(file, np.uint8, "r").data  # read as it is needed, and not copied
            yield Update(name, self.infos[name], unpack(blob, self._spec))

    def columns(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Yield each tensor of the weights, by name: n hospitals x its shape."""
        with ExitStack() as stack:
            opened = [
                stack.enter_context(safe_open(file, framework="numpy"))
                for file in self._files.values()
            ]
            for tensor in self._spec:
                yield tensor, np.stack([file.get_tensor(tensor) for file in opened])
