"""Try again what may pass: a few times, waiting longer each time, and saying what went wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

import stamina

from pipeline.errors import ArchiveError

LOG: Final = logging.getLogger(__name__)
# stamina's own log line says neither what failed nor why; `try_again` does.
logging.getLogger("stamina").setLevel(logging.ERROR)

T = TypeVar("T")


class Transient(Exception):
    """Carries an error that may be gone next time.

    `wait_s` is how long the server asks to wait (None: it does not say). `of_host` tells a server that is out of
    order from a file that came damaged.
    """

    def __init__(self, error: ArchiveError, wait_s: float | None = None, *, of_host: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_s = wait_s
        self.of_host = of_host


def try_again(what: Callable[[], T], *, attempts: int, wait_initial_s: float, wait_max_s: float) -> T:
    """Call `what` until it raises no `Transient`, at most `attempts` times; the last one is passed on."""
    tries = stamina.retry_context(
        on=Transient,
        attempts=attempts,
        timeout=None,
        wait_initial=wait_initial_s,
        wait_max=wait_max_s,
        wait_jitter=wait_initial_s,
    )
    for attempt in tries:
        with attempt:
            try:
                return what()
            except Transient as problem:
                LOG.warning("attempt %d of %d: %s", attempt.num, attempts, problem)
                raise
    raise AssertionError("stamina ends in a result or an error")
