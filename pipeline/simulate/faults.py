"""Faults that a test asks the archive server to commit."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

FaultKind = Literal[
    "not_found", "server_error", "html", "redirect", "reset", "reset_midway", "truncated", "short_length",
    "huge_length", "corrupt", "slow", "drip", "no_range",
]  # fmt: skip
"""What happens instead of the right answer:

- `not_found`: 404
- `server_error`: `status` (503), with Retry-After where `retry_after_s` is given
- `html`: 200 with the page of an outage
- `redirect`: 302 to `location`; '' is the same URL again, a loop
- `reset`: the connection is reset before any answer
- `reset_midway`: the connection is reset after half of the body
- `truncated`: the full Content-Length, then half of the body and the end of the connection
- `short_length`: half of the body, with a Content-Length that says that this is all
- `huge_length`: a Content-Length of 50 GB
- `corrupt`: the right length, one byte of the body flipped
- `slow`: `delay_s` seconds pass before the answer, which is right
- `drip`: the answer is right, at `bytes_per_s`
- `no_range`: the whole file, whatever part of it was asked for
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """The first `times` requests whose path matches `path_glob` (fnmatch, with the leading '/') suffer `kind`."""

    path_glob: str
    kind: FaultKind
    times: int = 1
    status: int = 503
    retry_after_s: float | None = None
    location: str = ""
    delay_s: float = 1.0
    bytes_per_s: float = 10e3


class FaultPlan:
    """Faults still to be committed; safe to ask from several threads."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._left: list[int] = []
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """One more, after those that are there."""
        with self._lock:
            self._faults.append(fault)
            self._left.append(fault.times)

    def next_for(self, path: str) -> Fault | None:
        """The first fault that matches `path` and has not been committed often enough, which is then counted."""
        with self._lock:
            for number, fault in enumerate(self._faults):
                if self._left[number] > 0 and fnmatchcase(path, fault.path_glob):
                    self._left[number] -= 1
                    return fault
        return None
