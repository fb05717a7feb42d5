"""How often a database is asked."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

QUERIES_PER_MINUTE: Final = 60
"""SkyServer's rule for every client."""


class Pace:
    """Lets a minute's share of queries pass at once and makes the rest wait."""

    def __init__(
        self,
        per_minute: int = QUERIES_PER_MINUTE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._asked: deque[float] = deque(maxlen=per_minute)
        self._clock = clock
        self._sleep = sleep

    def wait(self) -> None:
        """Return when one more query may be sent."""
        if len(self._asked) == self._asked.maxlen:
            self._sleep(max(0.0, self._asked[0] + 60 - self._clock()))
        self._asked.append(self._clock())
