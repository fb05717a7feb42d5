"""The decoding processes that all cells of a build share."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


LONGEST_CALL_S: Final = 900.0
"""A frame is cut in a second. Only a hung disk, or a file that sends a decoder round in circles, takes so long."""


class WorkerPool(Executor):
    """A process pool that outlives the death of a worker: what was in flight fails, what comes next is done.

    Processes are spawned, not forked: the threads of Prefect must not be copied into them.

    Parameters
    ----------
    workers
        How many processes.
    seconds
        Longest that one call may take. Then its process is ended, whatever it hangs in, and that is a death like any.
    """

    def __init__(self, workers: int, *, seconds: float = LONGEST_CALL_S) -> None:
        self._workers = workers
        self._seconds = seconds
        self._lock = threading.Lock()
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, mp_context=context, initializer=_belong_to_the_parent)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As any executor; on a broken pool, on a new one."""
        with self._lock, _ctrl_c_kept_from_new_processes():
            call = partial(in_time, self._seconds, fn)
            try:
                return self._pool.submit(call, *args, **kwargs)
            except BrokenProcessPool:
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = self._new()
                return self._pool.submit(call, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes."""
        self._pool.shutdown(wait=wait, cancel_futures=cancel_futures)


@contextmanager
def worker_pool(workers: int) -> Iterator[Executor]:
    """A `WorkerPool` that leaves nothing behind, whatever happens inside."""
    pool = WorkerPool(workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_kept_from_new_processes() -> Iterator[None]:
    """Block SIGINT in this thread: a process that is started here inherits that, for the second until it ignores it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def in_time(seconds: float, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `fn`, or be ended by the kernel: nothing else reaches a process that hangs in C."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return fn(*args, **kwargs)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _belong_to_the_parent() -> None:
    """End when the parent does, however it ends, and not before.

    A terminal signals all processes of a job; a worker that dies of Ctrl-C breaks the pool for the others.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(process: BaseProcess) -> None:
    process.join()
    os._exit(1)
