"""Errors that end a command, each with its documented exit code."""

from typing import ClassVar

from pydantic import ValidationError


class FedCXRError(Exception):
    """Ends a command with one line: what, where, which value, what to do.

    The message never holds patient data: no file name of a site, no label, no pixel.
    """

    exit_code: ClassVar[int] = 1


class BadInput(FedCXRError):  # noqa: N818 - named for what it is
    """A file, an option or an environment variable of the user's cannot be used."""

    exit_code = 2


class NoQuorum(FedCXRError):  # noqa: N818
    """Too few hospitals answered for the run to go on."""

    exit_code = 3


class Refused(FedCXRError):  # noqa: N818
    """The server does not let this hospital take part."""

    exit_code = 4


def first_problem(error: ValidationError) -> str:
    """Return the first thing that is wrong with a file or a message: where, and what.

    The value itself is left out; it may be a patient's.
    """
    first = error.errors(include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
