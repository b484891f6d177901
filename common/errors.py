"""Errors that end a command, each with its documented exit code."""

from typing import ClassVar

from pydantic import ValidationError


class FedCXRError(Exception):
    """Ends a command with a one-line message: problem, place, value and remedy.

    The message never has patient data: no file name of a site, no label, no pixel.
    """

    exit_code: ClassVar[int] = 1


class BadInput(FedCXRError):  # noqa: N818 - named for what it is
    """A file, an option or an environment variable is invalid."""

    exit_code = 2


class NoQuorum(FedCXRError):  # noqa: N818
    """Too few hospitals answered for the run to continue."""

    exit_code = 3


class Refused(FedCXRError):  # noqa: N818
    """The server refuses this hospital."""

    exit_code = 4


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a file or a message: place and reason.

    The value itself is left out; it may be patient data.
    """
    first = error.errors(include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
