"""Log lines, one per event: for people, or with ``--log-format json`` for machines.

A line for machines is a JSON object with ``time``, ``level``, ``logger`` and ``message``. What
happens in a run has its ``event`` besides, in one word, and numbers under the same names at the
server and at the hospitals: ``round``, ``site``, ``examples``, ``loss``, ``auc``, ``seconds``,
``reason`` and so on, as in ``rounds.jsonl`` and ``events.jsonl``.
"""

import json
import logging
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any, Literal

log = logging.getLogger(__name__)

PACKAGES = ("client", "common", "experiments", "predict", "pretrain", "radiographs", "server")
"""Those of this project."""

LogFormat = Literal["text", "json"]

FOR_PEOPLE: dict[str, Any] = {"for_people": True}
"""``extra`` of lines that only a reader of text needs, such as a table's heading."""


def fields(event: str, **values: object) -> Mapping[str, Any]:
    """Return the ``extra`` of a line: what it says, for machines.

    Args:
        event: What happened.
        **values: Its numbers and names; None is left out.
    """
    told = {name: value for name, value in values.items() if value is not None}
    return {"fields": {"event": event, **told}}


class JsonLines(logging.Formatter):
    """Makes a JSON object of each record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().strip(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr(debug: bool, log_format: LogFormat = "text") -> None:
    """Send this project's log lines to stderr, those for people with the local time.

    Args:
        debug: Also log debug lines, and warnings of other libraries.
        log_format: For people or for machines; also of the files.
    """
    handler = logging.StreamHandler(sys.stderr)
    _set_format(handler, "%H:%M:%S", log_format)
    logging.raiseExceptions = False  # a line that cannot be written must not end the command
    logging.basicConfig(
        level=logging.WARNING if debug else logging.CRITICAL, handlers=[handler], force=True
    )
    threading.excepthook = _log_thread_error
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG if debug else logging.INFO)


def log_to_file(path: Path) -> None:
    """Append the same lines to a file, those for people with the date.

    Raises:
        OSError: It cannot be written.
    """
    handler = logging.FileHandler(path, encoding="utf-8")
    _set_format(handler, "%Y-%m-%d %H:%M:%S", "json" if _is_for_machines() else "text")
    logging.getLogger().addHandler(handler)


def print_last_line(name: str, message: str) -> None:
    """Print to stderr why a command ends, in the format of its log, and log nothing any more.

    What cannot be printed, as on a disk that is full, is not; the exit code says it too.

    Args:
        name: The command's.
        message: The reason.
    """
    line = f"{name}: {message}"
    if _is_for_machines():
        line = JsonLines().format(logging.LogRecord(name, logging.ERROR, "", 0, message, (), None))
    handlers = logging.getLogger().handlers
    earlier, handlers[:] = handlers[:], [logging.NullHandler()]  # or a thread's line would follow
    for handler in earlier:
        if type(handler) is logging.StreamHandler:  # for whose lock a thread may wait
            with suppress(OSError):
                handler.setStream(StringIO())
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _set_format(handler: logging.Handler, time: str, log_format: LogFormat) -> None:
    if log_format == "json":
        handler.setFormatter(JsonLines())
        handler.addFilter(lambda record: not hasattr(record, "for_people"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", time))


def _is_for_machines() -> bool:
    """Return whether this process logs JSON."""
    handlers = logging.getLogger().handlers
    return any(isinstance(handler.formatter, JsonLines) for handler in handlers)


def _log_thread_error(error: threading.ExceptHookArgs) -> None:
    """Log the type of an error that ended a thread; with --debug also its traceback."""
    # grpcio's thread that watches a connection may find it closed; this is harmless.
    expected = isinstance(error.exc_value, ValueError) and "Channel closed" in str(error.exc_value)
    log.log(
        logging.DEBUG if expected else logging.ERROR,
        "a thread ended: %s",
        error.exc_type.__name__,
        exc_info=error.exc_value if log.isEnabledFor(logging.DEBUG) else None,
    )
