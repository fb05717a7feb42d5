"""Calls in threads, a bounded number at a time, for no longer than agreed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


class OutOfTime(Exception):
    """What was waited for did not come in the time that was agreed."""


def in_threads(calls: Iterable[Callable[[], T]], *, at_once: int, until: float = math.inf) -> Iterator[T]:
    """Give the results of calls in whatever order they finish; `calls` are taken up as there is room.

    Parameters
    ----------
    until
        Reading of the monotonic clock after which nothing is waited for.

    Raises
    ------
    OutOfTime
        Time is up. Threads that still wait for something give that up by themselves.
    """
    waiting = iter(calls)
    pending: set[Future[T]] = set()
    overdue = False
    threads = ThreadPoolExecutor(at_once)
    try:
        while True:
            for call in islice(waiting, at_once - len(pending)):
                # In the caller's context: what a thread logs belongs to the caller's run.
                pending.add(threads.submit(copy_context().run, call))
            if not pending:
                return
            left = None if until == math.inf else max(0.0, until - time.monotonic())
            done, pending = wait(pending, timeout=left, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
            if overdue := time.monotonic() > until:
                raise OutOfTime
    finally:
        threads.shutdown(wait=not overdue, cancel_futures=True)
