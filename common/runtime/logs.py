"""Log lines for people: one line per event, for a terminal and ``docker logs``."""

import logging
import sys
import threading
from pathlib import Path

log = logging.getLogger(__name__)

PACKAGES = ("client", "common", "experiments", "predict", "pretrain", "radiographs", "server")
"""Those of this project."""


def log_to_stderr(debug: bool) -> None:
    """Send this project's log lines to stderr, with the local time.

    Args:
        debug: Also log debug lines, and warnings of other libraries.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.raiseExceptions = False  # a line that cannot be written must not end the command
    logging.basicConfig(
        level=logging.WARNING if debug else logging.CRITICAL, handlers=[handler], force=True
    )
    threading.excepthook = _log_thread_error
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG if debug else logging.INFO)


def log_to_file(path: Path) -> None:
    """Append the same lines to a file, with the date.

    Raises:
        OSError: It cannot be written.
    """
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.getLogger().addHandler(handler)


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
