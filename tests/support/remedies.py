"""Provokes errors and warnings, and follows the remedies that they print."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from common.errors import FedCXRError


class Place:
    """A folder in which something is spoiled, and a copy of it as it was.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._copy = path.with_name(f"{path.name}-copy")
        shutil.copytree(path, self._copy)

    def __truediv__(self, name: str) -> Path:
        return self._path / name

    def spoil(self, file: str, content: str = "noise\n") -> None:
        """Write something else into a file."""
        (self / file).write_text(content)

    def restore(self, *files: str) -> None:
        """Restore files from the copy."""
        for file in files:
            shutil.copy(self._copy / file, self / file)

    def put(self, file: str, other: str) -> None:
        """Put a copy of another file in a file's place."""
        shutil.copy(self / other, self / file)


Step = Callable[[Place], object]


class Remedy(NamedTuple):
    """An error or a warning, and its remedy.

    Attributes:
        says: What is printed as remedy.
        before: Spoils something.
        attempt: Fails with that.
        follow: Does what is printed.
        then: Works.
    """

    says: str
    before: Step
    attempt: Step
    follow: Step
    then: Step

    def helps(self, place: Place) -> None:
        """Assert that the remedy is printed, and helps."""
        self.before(place)
        said = ""
        try:
            self.attempt(place)
        except FedCXRError as error:  # whose traceback, once it is gone, holds no file open
            said = str(error)
        assert self.says in said
        self.follow(place)
        self.then(place)


def nothing(_place: Place) -> None:
    """Do nothing."""


def mended(says: str, before: Step, attempt: Step, mend: Step) -> Remedy:
    """Return a remedy after which the same works."""
    return Remedy(says, before, attempt, mend, attempt)


def instead(says: str, attempt: Step, other: Step, before: Step = nothing) -> Remedy:
    """Return a remedy that is to do something else."""
    return Remedy(says, before, attempt, nothing, other)


def each(*remedies: Remedy) -> pytest.MarkDecorator:
    """Return the parameters of a test, each named by its remedy."""
    return pytest.mark.parametrize("remedy", remedies, ids=lambda remedy: remedy.says)


class Warned(FedCXRError):  # noqa: N818 - what happened, not a fault
    """Something was logged as a warning."""


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def without_warnings() -> Iterator[None]:
    """Let no warning be logged in the block.

    Raises:
        Warned: One was.
    """
    handler = _Messages()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
    if handler.messages:
        raise Warned("\n".join(handler.messages))


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC).replace(microsecond=0)
