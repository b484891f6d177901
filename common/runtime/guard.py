"""Ends a process in time after a signal, even if the main thread hangs."""

import logging
import os
import signal
import time
from collections.abc import Callable
from threading import Thread
from typing import NoReturn

from common.runtime.cli import ENDING, Stopped

log = logging.getLogger(__name__)

LEAVE_SECONDS = 7.0
"""Time between the signal and the forced end. Docker kills a process after 10 s."""

WORDS_SECONDS = 2.0
"""Most time for the last words."""


class Guard:
    """Ends the process some seconds after a signal, if the command is still running.

    Python runs signal handlers in the main thread, after the current call returns. A batch may take
    too long, and a call of a driver may never return. This class waits in a separate thread, which
    only code that holds the GIL can block. Create it in the main thread of a command that ends with
    :func:`common.runtime.cli.leave`.

    Attributes:
        last_words: Called with the signal before the process ends; may fail or hang.
    """

    def __init__(self) -> None:
        self.last_words: Callable[[Stopped], object] = lambda _: None
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        # Python writes each signal's number to the pipe at once, in any thread.
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        Thread(target=self._watch, args=(reading,), daemon=True).start()

    def _watch(self, reading: int) -> None:
        number = 0
        while number not in ENDING:
            number = os.read(reading, 1)[0]
        time.sleep(LEAVE_SECONDS)
        stopped = Stopped(number)

        def last_words() -> None:
            self.last_words(stopped)
            log.critical("stopped by %s, in the middle of a call that does not return", stopped)

        end_process(stopped.exit_code, last_words)


def end_process(exit_code: int, last_words: Callable[[], object]) -> NoReturn:
    """End the process from any thread, even if others hang.

    Args:
        exit_code: Its exit code.
        last_words: Called first; abandoned if it hangs, for example on a lock or a dead disk.
    """
    thread = Thread(target=last_words, daemon=True)
    thread.start()
    thread.join(WORDS_SECONDS)
    os._exit(exit_code)
