"""Errors that end a command, each with its documented exit code."""

from typing import ClassVar


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
