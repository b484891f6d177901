"""An end in time, whatever the main thread is doing."""

import logging
import os
import signal
import time
from collections.abc import Callable
from threading import Thread
from typing import NoReturn

from common.runtime.cli import Stopped

log = logging.getLogger(__name__)

LEAVE_SECONDS = 7.0
"""From SIGINT or SIGTERM on, until a command that is still running is ended; Docker kills it 10 s
after the signal."""

WORDS_SECONDS = 2.0
"""How long last words may take."""


class Guard:
    """Ends the process some seconds after SIGINT or SIGTERM if the command has not ended by then.

    Python calls a signal's handler in the main thread, once what that is calling returns: a batch
    may take longer than anybody waits, and a driver may never return. This waits in a thread of its
    own, which only code that keeps the interpreter's lock holds up. To be made in the main thread,
    by a command that ends with :func:`common.runtime.cli.leave`.

    Attributes:
        last_words: Called with the signal before the process is ended; may fail, or hang.
    """

    def __init__(self) -> None:
        self.last_words: Callable[[Stopped], object] = lambda _: None
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        # Python writes each signal's number there at once, from whatever thread receives it.
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        Thread(target=self._watch, args=(reading,), daemon=True).start()

    def _watch(self, reading: int) -> None:
        number = 0
        while number not in (signal.SIGINT, signal.SIGTERM):
            number = os.read(reading, 1)[0]
        time.sleep(LEAVE_SECONDS)
        stopped = Stopped(number)

        def words() -> None:
            self.last_words(stopped)
            log.critical("stopped by %s, in the middle of a call that does not return", stopped)

        end_process(stopped.exit_code, words)


def end_process(exit_code: int, last_words: Callable[[], object]) -> NoReturn:
    """End the process from any thread, whatever the others are doing.

    Args:
        exit_code: Its exit code.
        last_words: Called first; given up if it hangs, for instance on a lock or a dead disk.
    """
    words = Thread(target=last_words, daemon=True)
    words.start()
    words.join(WORDS_SECONDS)
    os._exit(exit_code)
