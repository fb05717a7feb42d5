"""Faults that a test asks the archive server to commit."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

FaultKind = Literal["not_found", "server_error", "truncated", "html", "corrupt", "slow", "reset"]
"""What happens instead of the right answer:

- `not_found`: 404
- `server_error`: 503, with Retry-After where `retry_after_s` is given
- `truncated`: the full Content-Length, then half of the body and the end of the connection
- `html`: 200 with the page of an outage
- `corrupt`: the right length, one byte of the body flipped
- `slow`: `delay_s` seconds pass before the answer, which is right
- `reset`: the connection is reset before any answer
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """The first `times` requests whose path matches `path_glob` (fnmatch, with the leading '/') suffer `kind`."""

    path_glob: str
    kind: FaultKind
    times: int = 1
    retry_after_s: float | None = None
    delay_s: float = 1.0


class FaultPlan:
    """Faults still to be committed; safe to ask from several threads."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._faults = tuple(faults)
        self._left = [fault.times for fault in self._faults]

    def next_for(self, path: str) -> Fault | None:
        """The first fault that matches `path` and has not been committed often enough, which is then counted."""
        with self._lock:
            for number, fault in enumerate(self._faults):
                if self._left[number] > 0 and fnmatchcase(path, fault.path_glob):
                    self._left[number] -= 1
                    return fault
        return None
