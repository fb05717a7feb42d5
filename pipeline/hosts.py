"""One server as all downloads see it together: room for few connections, and a pause when it is out of order.

Failures that are one file's own (404, a corrupt body) say nothing about its server. Refused connections, time-outs,
5xx and outage pages do: after several in a row, whichever files they were for, all downloads from that server wait,
and one request a pause, for the file that it gave last, finds out when it is back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PausePolicy:
    """When a server is left alone, and for how long."""

    failures: int = 6
    """In a row, from all connections together."""
    first_s: float = 30.0
    longest_s: float = 900.0
    """A pause after which the server is still out of order is followed by one twice as long, up to this."""
    give_up_s: float = 12 * 3600.0
    """Longest outage that is waited for; 0: none is."""


NO_PAUSE: Final = PausePolicy(give_up_s=0)


class Host:
    """What the downloads of this process know of one server. Safe to share between threads; waits for nobody."""

    def __init__(self, name: str, connections: int, policy: PausePolicy) -> None:
        self.name = name
        self.policy = policy
        self.outages = 0
        """How many there have been; a download that overlapped one has not had its fair tries."""
        self.last_good_url = ""
        """Of the last file that it gave whole; '' while it gave none."""
        self._room = threading.Semaphore(connections)
        self._lock = threading.Lock()
        self._failures = 0
        self._left_alone_until = 0.0
        self._out_since: float | None = None
        self._paused_until = 0.0
        self._pause_s = policy.first_s
        self._probing = False

    @contextmanager
    def connection(self) -> Iterator[None]:
        """Room for one more connection."""
        with self._room:
            yield

    @property
    def answers(self) -> bool:
        """Whether it is not known to be out of order, and does not want to be left alone."""
        with self._lock:
            return self._answers()

    @property
    def patience_s(self) -> float:
        """Longest wait that it may ask for: only a server that has worked already is waited for long."""
        return self.policy.give_up_s if self.last_good_url else 0.0

    @property
    def is_lost(self) -> bool:
        """Whether it has been out of order for longer than anybody waits."""
        with self._lock:
            return self._out_since is not None and time.monotonic() - self._out_since > self.policy.give_up_s

    @property
    def due_s(self) -> float:
        """How long to wait before it makes sense to look at it again."""
        with self._lock:
            return max(0.0, self._asked_next() - time.monotonic())

    @property
    def wish_s(self) -> float:
        """For how long it still wants to be left alone."""
        with self._lock:
            return max(0.0, self._left_alone_until - time.monotonic())

    def worked(self, url: str = "") -> None:
        """It answered; with `url`, it gave that file whole."""
        with self._lock:
            if self._out_since is not None:
                LOG.warning("%s is back after %.0f s", self.name, time.monotonic() - self._out_since)
            self.last_good_url = url or self.last_good_url
            self._failures, self._out_since, self._pause_s = 0, None, self.policy.first_s

    def leave_alone(self, wait_s: float) -> None:
        """It sent Retry-After: no download asks it before that time."""
        with self._lock:
            self._left_alone_until = max(self._left_alone_until, time.monotonic() + wait_s)

    def failed(self, what: str) -> None:
        """A request failed in a way that is the server's."""
        with self._lock:
            self._failures += 1
            worth_waiting = self.last_good_url and self.policy.give_up_s > 0
            if self._out_since is None and self._failures >= self.policy.failures and worth_waiting:
                self._out_since = time.monotonic()
                self.outages += 1
                self._pause(what)

    def revive(self, probe: Callable[[str], bool]) -> bool:
        """Whether it answers; if it is out of order and its pause is over, `probe` is asked, by one thread alone.

        `probe` gets the URL of the file that it gave last.
        """
        with self._lock:
            if self._answers():
                return True
            if self._out_since is None or self._probing or time.monotonic() < self._asked_next():
                return False
            self._probing = True
        works = False
        try:
            works = probe(self.last_good_url)
        finally:
            with self._lock:
                self._probing = False
                if not works:
                    self._pause("still out of order")
        if works:
            self.worked()
        return works

    def _answers(self) -> bool:
        return self._out_since is None and time.monotonic() >= self._left_alone_until

    def _asked_next(self) -> float:
        return self._left_alone_until if self._out_since is None else max(self._paused_until, self._left_alone_until)

    def _pause(self, why: str) -> None:
        LOG.warning("%s: %s; all its downloads pause for %.0f s", self.name, why, self._pause_s)
        self._paused_until = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, self.policy.longest_s)
