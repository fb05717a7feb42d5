"""One file from the servers that have it: in order of preference, again if it may help, later if they are all away.

What comes is read whole and checked before it counts. A server's failures are told to its `Host`, which all downloads
share; waiting for servers happens here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlsplit

import httpx

from pipeline.errors import ArchiveError, BadPayload, FrameError, NotInArchive
from pipeline.hosts import NO_PAUSE, Host, PausePolicy
from pipeline.identity import check_file
from pipeline.ledger import Key, Origin
from pipeline.partial import Part
from pipeline.retrying import Transient, try_again
from pipeline.transfer import NotModified, Terms, download, is_alive

OUTAGES_PER_FILE: Final = 3
"""A file whose attempts were used up in an outage of its server is given as many again, so often."""
WAITS_PER_ATTEMPT: Final = 50
"""So often a server may answer "later" without that being an attempt."""
SHORTEST_NAP_S: Final = 0.02
LONGEST_NAP_S: Final = 1.0
"""Who waits for a server looks up so often whether another thread has found it well."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How hard a server is tried. For an archive's files, `ArchiveConfig` has its own first three."""

    attempts: int = 4
    timeout_s: float = 30.0
    """Without a byte."""
    max_connections: int = 4
    """Per host, at the same time."""
    wait_initial_s: float = 1.0
    """Between attempts; doubles each time, with jitter."""
    wait_max_s: float = 60.0
    """Also the longest Retry-After that is waited for, unless the server has worked already; a server that asks for
    more is given up on."""
    pause: PausePolicy = NO_PAUSE
    """When a server counts as out of order. How long an archive's is waited for then, `ArchiveConfig` says."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file, and how it is to be had."""

    key: Key
    urls: tuple[str, ...]
    terms: Terms
    patience: Patience
    verify: bool
    """Read it whole and check it; without, only what is not known from before is."""
    earlier: Origin | None = None
    """What it was when it was last fetched; None where that is not known or may change."""
    accept_changes: bool = True
    corrupt: set[str] = field(default_factory=set)
    """sha256 of what came whole and was refused: the same once more, and it lies so in the archive."""


class Mirrors:
    """All servers of a survey, and the connections to them. Safe to share between threads."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._hosts: dict[str, Host] = {}
        self._guard = threading.Lock()

    def host(self, url: str, patience: Patience) -> Host:
        """The server of `url`; the first limits named for it hold."""
        name = urlsplit(url).netloc
        with self._guard:
            if name not in self._hosts:
                self._hosts[name] = Host(name, patience.max_connections, patience.pause)
            return self._hosts[name]

    def download(self, wanted: Wanted, part: Part) -> Origin:
        """Get the file into `part`, whole and checked; attempts that fell into an outage do not count.

        Raises
        ------
        NotModified
            A server says that the copy at hand is still the file.
        NotInArchive, BadPayload, ArchiveError
            As `Archive.fetch` does.
        """
        for turn in range(1, OUTAGES_PER_FILE + 1):
            outages = self._outages(wanted)
            try:
                return self._attempts(wanted, part)
            except Transient as problem:
                if self._outages(wanted) == outages or turn == OUTAGES_PER_FILE:
                    return self._last_try(wanted, part, problem)
        raise AssertionError("unreachable: the last turn returns or raises")

    def _attempts(self, wanted: Wanted, part: Part) -> Origin:
        patience = wanted.patience
        return try_again(
            lambda: self._when_told_to(wanted, part),
            attempts=patience.attempts,
            wait_initial_s=patience.wait_initial_s,
            wait_max_s=patience.wait_max_s,
        )

    def _last_try(self, wanted: Wanted, part: Part, last: Transient) -> Origin:
        """After pages and pieces instead of a file: is it the file, or is the server not well?

        A server that gives what it gave before is well, and then what it says of this file stands.
        """
        if not isinstance(last.error, BadPayload):
            raise last.error from last
        hosts = [self.host(url, wanted.patience) for url in wanted.urls]
        if not any(host.last_good_url and self._is_alive(host) for host in hosts):
            raise ArchiveError(str(last.error)) from last
        try:
            return self._when_told_to(wanted, part)
        except Transient as problem:
            raise problem.error from problem

    def _when_told_to(self, wanted: Wanted, part: Part) -> Origin:
        """Ask as often as servers answer that they want to be asked later."""
        for _ in range(WAITS_PER_ATTEMPT):
            try:
                return self._once(wanted, part)
            except Transient as problem:
                last = problem
                if problem.wait_s is None:
                    raise
        raise Transient(last.error) from last

    def _once(self, wanted: Wanted, part: Part) -> Origin:
        """Ask each mirror once, in order, the one first that a part came from; absent ones if the others lack it."""
        problems: list[Transient | ArchiveError] = []
        urls = sorted(wanted.urls, key=lambda url: url != part.url)
        while urls:
            url = next((url for url in urls if self.host(url, wanted.patience).revive(self._probe)), "")
            if not url:
                if not all(isinstance(problem, NotInArchive) for problem in problems):
                    break
                self._wait_for_any(urls, wanted.patience)
                continue
            urls.remove(url)
            try:
                return self._from(self.host(url, wanted.patience), url, wanted, part)
            except (Transient, ArchiveError) as problem:
                problems.append(problem)
        raise _worth_most(problems)

    def _wait_for_any(self, urls: Sequence[str], patience: Patience) -> None:
        """Sleep until it makes sense to look again at one of the servers.

        Raises
        ------
        ArchiveError
            None will be back in a time that anybody waits.
        """
        hosts = [host for host in (self.host(url, patience) for url in urls) if not host.is_lost]
        if not hosts:
            names, hours = ", ".join(urlsplit(url).netloc for url in urls), patience.pause.give_up_s / 3600
            raise ArchiveError(f"{names} has been out of order for over {hours:.3g} h: run again when it is back")
        first = min(hosts, key=lambda host: host.due_s)
        if first.wish_s > max(patience.wait_max_s, first.patience_s):
            raise ArchiveError(f"{first.name} asks to come back in {first.wish_s:.0f} s: run again then")
        time.sleep(min(max(first.due_s, SHORTEST_NAP_S), LONGEST_NAP_S))

    def _from(self, host: Host, url: str, wanted: Wanted, part: Part) -> Origin:
        """Download from one server, let it know what that says about it, and check what came."""
        with _told(host, wanted.patience), host.connection():
            if not host.answers:  # it stopped while others had the connections
                raise Transient(ArchiveError(f"{host.name} is out of order"), wait_s=0)
            origin = download(self._client, url, part, wanted.terms)
        host.worked(url)
        self._check(wanted, origin, part)
        return origin

    def _check(self, wanted: Wanted, origin: Origin, part: Part) -> None:
        """Read the whole file; a damaged one is worth another try unless it comes damaged in the same way."""
        if not wanted.verify and (wanted.earlier is None or wanted.earlier.sha256 == origin.sha256):
            return
        try:
            check_file(part.path, PurePosixPath(wanted.key.path).name)
        except FrameError as error:
            part.discard()
            refused = BadPayload(f"{origin.url} gave {error}")
            if origin.sha256 in wanted.corrupt:
                raise refused from error
            wanted.corrupt.add(origin.sha256)
            raise Transient(refused) from error

    def _probe(self, url: str) -> bool:
        try:
            return is_alive(self._client, url)
        except Transient as problem:
            if problem.wait_s:
                self.host(url, Patience()).leave_alone(problem.wait_s)
            return False

    def _is_alive(self, host: Host) -> bool:
        with host.connection():
            return self._probe(host.last_good_url)

    def _outages(self, wanted: Wanted) -> int:
        return sum(self.host(url, wanted.patience).outages for url in wanted.urls)


@contextmanager
def _told(host: Host, patience: Patience) -> Iterator[None]:
    """Let a server's `Host` know what a download says about it.

    A wish to be asked later goes on with the error only if it is granted without that being an attempt.
    """
    try:
        yield
    except Transient as problem:
        if not problem.wait_s:
            if problem.of_host:
                host.failed(str(problem))
            raise
        host.leave_alone(problem.wait_s)
        if problem.wait_s > max(patience.wait_max_s, host.patience_s):
            wish = f"it asks to come back in {problem.wait_s:.0f} s: run again then"
            raise ArchiveError(f"{problem.error}; {wish}") from problem
        host.failed(str(problem))
        raise Transient(problem.error, problem.wait_s if host.patience_s else None, of_host=True) from problem
    except (NotModified, NotInArchive):
        host.worked()
        raise


def _worth_most(problems: Sequence[Transient | ArchiveError]) -> Transient | ArchiveError:
    """Of what the mirrors said: what may pass, else what is wrong, and "does not exist" only if all say so."""
    for problem in problems:
        if isinstance(problem, Transient):
            return problem
    return next((problem for problem in problems if not isinstance(problem, NotInArchive)), problems[0])
