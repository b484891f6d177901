"""Log lines for people: one line an event, readable in a terminal and in ``docker logs``."""

import logging
import sys
import threading
from pathlib import Path

log = logging.getLogger(__name__)


def log_to_stderr(debug: bool) -> None:
    """Send this project's log lines to stderr, with the local time.

    Args:
        debug: Also the lines that only a developer wants, and other libraries' warnings.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.raiseExceptions = False  # a line that cannot be written ends nothing
    logging.basicConfig(
        level=logging.WARNING if debug else logging.CRITICAL, handlers=[handler], force=True
    )
    threading.excepthook = _note_thread_fault
    for package in ("client", "common", "pretrain", "radiographs", "server"):
        logging.getLogger(package).setLevel(logging.DEBUG if debug else logging.INFO)


def log_to_file(path: Path) -> None:
    """Append the same lines to a file, with the date.

    Raises:
        OSError: It cannot be written.
    """
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.getLogger().addHandler(handler)


def _note_thread_fault(fault: threading.ExceptHookArgs) -> None:
    """Log what ended a thread; without --debug its type alone, since its text may hold anything."""
    # grpcio's own watcher of a connection may find it closed; nobody waits for it.
    expected = isinstance(fault.exc_value, ValueError) and "Channel closed" in str(fault.exc_value)
    log.log(
        logging.DEBUG if expected else logging.ERROR,
        "a thread ended: %s",
        fault.exc_type.__name__,
        exc_info=fault.exc_value if log.isEnabledFor(logging.DEBUG) else None,
    )
