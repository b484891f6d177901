"""Processes pictures in parallel, in order, holding only a few at a time."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from threading import Thread
from typing import TypeVar

from common.errors import FedCXRError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

BATCH = 8
"""Items sent to a process at once."""

WINDOW = 4
"""Batches in flight for each process."""


def in_order(
    function: Callable[[ItemT], ResultT], items: Sequence[ItemT], workers: int
) -> Generator[ResultT, None, None]:
    """Yield the function's result for each item, in the items' order.

    Closing the generator ends the processes.

    Args:
        function: Must be picklable, as must items and results.
        items: Arguments of the function.
        workers: Number of processes; 0 for one per core that this process may use.

    Raises:
        Exception: The function's exception for the first item that failed.
        FedCXRError: A process died.
    """
    workers = min(workers or cores(), len(items))
    if workers <= 1:
        yield from map(function, items)
        return
    # Spawn: a forked child would inherit the command's signal handlers and threads.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _be_a_worker)
    try:
        pending: deque[Future[list[ResultT]]] = deque()
        for first in range(0, len(items), BATCH):
            pending.append(pool.submit(_each, function, items[first : first + BATCH]))
            if len(pending) > WINDOW * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool:
        raise FedCXRError("a worker process died; is there enough memory?") from None
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _each(function: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> list[ResultT]:
    return [function(item) for item in items]


def _be_a_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent ends, even if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
