"""Command line of all commands: options (also environment variables), errors, exit codes."""

import argparse
import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn, TypeVar, get_args

from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliPositionalArg,
    CliSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from common.errors import BadInput, FedCXRError
from common.message import VERSION
from common.runtime.files import remedy
from common.runtime.logs import print_last_line


class Settings(BaseSettings):
    """Base class of a command's options; each field is an option and an environment variable.

    A subclass adds ``env_prefix`` and ``cli_prog_name`` to its ``model_config``.
    """

    model_config = SettingsConfigDict(
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_exit_on_error=False,
        env_ignore_empty=True,
        allow_inf_nan=False,
        extra="forbid",
    )

    debug: bool = Field(False, description="show the whole traceback of an error")

    @field_validator("*")
    @classmethod
    def _home(cls, value: object) -> object:
        """Expand ``~``, which no shell does in ``--option=~/file`` or in a variable."""
        if isinstance(value, str | Path) and str(value).startswith("~/"):
            return type(value)(Path(value).expanduser())
        return value


FILE_ERRORS = (
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE),
    errno.EBUSY,
)
"""File errors that the user can fix."""

SettingsT = TypeVar("SettingsT", bound=Settings)

POSITIONAL = get_args(CliPositionalArg[str])[1]
"""Marker of fields that are positional arguments."""


class _Help(argparse.HelpFormatter):
    """Wraps the description too, and omits the default None."""

    def _expand_help(self, action: argparse.Action) -> str:
        return (super()._expand_help(action) or "").replace(" (default: None)", "")


def parse(settings: type[SettingsT], arguments: Sequence[str]) -> SettingsT:
    """Read a command's options from its arguments and the environment.

    Raises:
        BadInput: An option is unknown, missing or out of range. The message names it.
        SystemExit: ``--help`` or ``--version`` was printed.
    """
    _warn_of_unknown_variables(settings)
    source = CliSettingsSource[argparse.ArgumentParser](
        settings,
        formatter_class=_Help,
        # Positional arguments may stand behind options, also where a list of them may be empty.
        parse_args_method=argparse.ArgumentParser.parse_intermixed_args,
    )
    program = str(settings.model_config.get("cli_prog_name")).partition(" ")[0]
    source.root_parser.add_argument(
        "--version", action="version", version=version_line(program), help="print the version"
    )
    try:
        return CliApp.run(settings, cli_args=list(arguments), cli_settings_source=source)
    except ValidationError as error:
        problems = "; ".join(_describe(detail, settings) for detail in error.errors())
        raise BadInput(f"{problems} (see --help)") from error
    except SettingsError as error:
        message = str(error).removeprefix("error parsing CLI: ")
        raise BadInput(f"{message} (see --help)") from error


def split_commas(value: str | Sequence[object]) -> list[str]:
    """Return the parts of a list separated by commas; from the command line it comes split."""
    texts = [value] if isinstance(value, str) else value
    return [part.strip() for text in texts for part in str(text).split(",")]


def check_distinct(parts: list[str]) -> list[str]:
    """Return the parts of a list.

    Raises:
        ValueError: One is there twice.
    """
    if twice := sorted({part for part in parts if parts.count(part) > 1}):
        raise ValueError(f"{', '.join(twice)} is there twice")
    return parts


def version_line(program: str) -> str:
    """Return a program's version, and that of the protocol between server and hospitals."""
    return f"{program} {version('fedcxr')}, protocol {VERSION}"


def _warn_of_unknown_variables(settings: type[Settings]) -> None:
    """Warn of variables that have the command's prefix but are not a setting."""
    prefix = settings.model_config.get("env_prefix", "")
    program = settings.model_config.get("cli_prog_name") or ""
    if not prefix or " " in program:  # the commands of one program share their variables
        return
    known = {prefix + name.upper() for name in settings.model_fields}
    for name in sorted(os.environ):
        if name.upper().startswith(prefix) and name.upper() not in known:
            close = get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            print(f"{program}: warning: {name} is not a setting{hint}", file=sys.stderr)


def _describe(detail: ErrorDetails, settings: type[Settings]) -> str:
    """Return a pydantic error as ``--option (or VARIABLE): problem``."""
    if not detail["loc"]:
        return detail["msg"].removeprefix("Value error, ")
    # The rest of loc is a place within the value; the message has the value anyway.
    name = str(detail["loc"][0])
    variable = settings.model_config.get("env_prefix", "") + name.upper()
    option = f"--{name.replace('_', '-')} (or {variable})"
    field = settings.model_fields.get(name)
    if field is not None and POSITIONAL in field.metadata:
        option = name.upper()
    if detail["type"] == "missing":
        return f"{option} is required"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{option}: {message[0].lower()}{message[1:]}, got {detail['input']!r}"


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command; SIGHUP comes when its terminal is closed."""


class Stopped(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived; unwinds the command so that it ends cleanly.

    Not an ``Exception``, so that ``except Exception`` does not catch it.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


def stop_on_signals() -> None:
    """Raise :class:`Stopped` in the main thread on the first of :data:`ENDING`.

    A signal that this process was started to ignore, as SIGHUP by nohup, is still ignored. Call it
    again after a library has set its own handlers.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        for name in ENDING:
            signal.signal(name, signal.SIG_IGN)
        raise Stopped(number)

    for name in ENDING:
        if name != signal.SIGHUP or signal.getsignal(name) != signal.SIG_IGN:
            signal.signal(name, stop)


def run_command(
    name: str, command: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None
) -> int:
    """Run a command and return its exit code; an error is one line on stderr.

    Args:
        name: Name of the command, at the start of the line.
        command: Function of the arguments; raises errors.
        arguments: Arguments without the program's name; default: those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    stop_on_signals()
    try:
        command(given)
    except Stopped as stopped:
        print_last_line(name, f"stopped by {stopped}")
        return stopped.exit_code
    except BrokenPipeError:
        # The reader of the output, such as head, has closed it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except FedCXRError as error:
        return _fail(name, given, str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001 - the last place to turn an error into a line
        if isinstance(error, OSError) and error.errno in FILE_ERRORS:
            where = f"{error.filename}: " if error.filename else ""
            told = "; ".join(filter(None, (error.strerror, remedy(error, otherwise=""))))
            return _fail(name, given, f"{where}{told}", BadInput.exit_code)
        return _fail(name, given, f"internal error, {type(error).__name__}", FedCXRError.exit_code)
    return 0


class Command(NamedTuple):
    """One of several commands under a program's name.

    Attributes:
        text: Help text of one line.
        run: Function of the command's arguments.
    """

    text: str
    run: Callable[[Sequence[str]], None]


def choose_command(
    program: str, summary: str, commands: Mapping[str, Command], arguments: Sequence[str]
) -> None:
    """Run the command that the first argument names, or print the list of commands.

    Raises:
        BadInput: There is no such command.
    """
    if arguments[:1] == ["--version"]:
        print(version_line(program))
        return
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: {program} COMMAND [options]\n\n{summary}\n")
        for name, command in commands.items():
            print(f"  {name:<12} {command.text}")
        print(f"\n{program} COMMAND --help shows a command's options.")
        return
    name = arguments[0]
    if name not in commands:
        raise BadInput(f"{name!r} is not a command; give one of {', '.join(commands)} (see --help)")
    commands[name].run(arguments[1:])


def leave(exit_code: int) -> NoReturn:
    """Flush output and end the process at once.

    For commands that use gRPC: at interpreter exit, grpcio 1.85 sometimes waits forever for a
    connection that is being opened. The kernel closes such a connection.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # its disk is full, or its reader gone
            stream.flush()
    os._exit(exit_code)


def _fail(name: str, arguments: Sequence[str], message: str, code: int) -> int:
    variable = name.upper().replace("-", "_") + "_DEBUG"
    if "--debug" in arguments or os.environ.get(variable, "").lower() in ("1", "true", "yes", "on"):
        traceback.print_exc()
    elif code == FedCXRError.exit_code:
        message += "; --debug shows where"
    print_last_line(name, f"error: {message}")
    return code
