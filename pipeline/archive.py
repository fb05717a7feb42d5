"""Files from archives over HTTP: fetched politely, checked, kept once.

A file counts as fetched only when it is whole, of the type, structure and identity that its name claims, and moved
into the cache with its origin (URL, size, sha256, validators) in the ledger. Everything else is an `ArchiveError`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Final, Self
from urllib.parse import unquote, urlsplit

import httpx
import stamina

from pipeline.cache import Cache
from pipeline.errors import ArchiveError, BadPayload, ChangedUpstream, FrameError, NotInArchive
from pipeline.hosts import NO_PAUSE, Host, PausePolicy
from pipeline.identity import check_file
from pipeline.ledger import Key, Ledger, Origin
from pipeline.manifest import file_sha256
from pipeline.survey import ArchiveConfig, CacheConfig
from pipeline.transfer import (
    Check,
    NotModified,
    Terms,
    Transient,
    anything,
    check_magic,
    download,
    file_url,
    full_url,
    is_alive,
)

LOG: Final = logging.getLogger(__name__)
USER_AGENT: Final = f"stripe82-convention/{version('stripe82-convention')} python-httpx/{httpx.__version__}"
MAX_REDIRECTS: Final = 4
OUTAGES_PER_FILE: Final = 3
"""A file whose attempts were used up in an outage of its server is given as many again, so often."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file of an archive, on this machine."""

    path: Path
    sha256: str
    n_bytes: int
    from_cache: bool


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
class _Wanted:
    """One file, and how it is to be had."""

    key: Key
    urls: tuple[str, ...]
    terms: Terms
    patience: Patience
    verify: bool
    accept_changes: bool = True
    corrupt: set[str] = field(default_factory=set)
    """sha256 of what came whole and was refused: the same once more, and it lies so in the archive."""


class Archive:
    """The archives of a survey behind one cache. A context manager; safe to share between threads.

    Parameters
    ----------
    archives
        Their servers in order of preference, and limits.
    cache
        Folder of fetched files, `<archive>/<path below the base URL>`; the processes of a machine may share it.
    patience
        Waits between attempts, and all limits of what `fetch_url` fetches.
    limits
        How large the cache may grow.
    retry_missing
        Ask once more for files that their servers said not to have.
    """

    def __init__(
        self,
        archives: Iterable[ArchiveConfig],
        cache: Path,
        patience: Patience | None = None,
        *,
        limits: CacheConfig | None = None,
        retry_missing: bool = False,
    ) -> None:
        self._archives = {archive.name: archive for archive in archives}
        max_gb = limits.max_gb if limits else None
        self._cache = Cache(cache, max_bytes=None if max_gb is None else int(max_gb * 1e9))
        self._patience = patience or Patience()
        self._retry_missing = retry_missing
        self._client = httpx.Client(
            follow_redirects=True,
            max_redirects=MAX_REDIRECTS,
            limits=httpx.Limits(max_connections=None),  # bounded per host
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},  # archive files are compressed already
        )
        self._hosts: dict[str, Host] = {}
        self._missing_now: set[Key] = set()
        self._guard = threading.Lock()
        for archive in self._archives.values():
            for url in archive.base_urls:
                self._host(url, self._patience_with(archive))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()
        self._cache.close()

    @property
    def ledger(self) -> Ledger:
        """What is known of every file that was ever fetched."""
        return self._cache.ledger

    def fetch(self, archive_name: str, path: str, *, refresh: bool = False) -> Fetched:
        """Fetch the file at `path` below an archive's base URL, from the first mirror that gives it whole.

        A cached file is used without asking if one of the archive's present servers gave it; with `refresh` they are
        asked whether it has changed. A server that has worked and is out of order is waited for.

        Raises
        ------
        NotInArchive
            Every mirror says that it has no such file, now or in an earlier run.
        BadPayload
            What came is not the file: truncated, too large, corrupt, or another one.
        ChangedUpstream
            It is whole, but not what it was when it was first fetched.
        ArchiveError
            No server gave an answer that helps, after all attempts; or the cache cannot be written.
        """
        return self._fetch(self._wanted(archive_name, path), refresh=refresh)

    def fetch_url(
        self,
        url: str,
        name: str,
        params: Mapping[str, str] | None = None,
        *,
        max_mb: float = 256,
        refresh: bool = False,
        check: Check = anything,
    ) -> Fetched:
        """Fetch a table or page from outside the archives' trees, cached as `name`; or open a local file.

        With `refresh` the server is asked again; the cached file stays if it says that nothing changed.

        Raises
        ------
        ArchiveError
            As `fetch` does, but at once where a server is out of order; or `url` is a path where no file is.
        """
        parts = urlsplit(url)
        if parts.scheme in ("", "file"):
            return _local_file(Path(unquote(parts.path) if parts.scheme else url), max_mb)
        if parts.scheme not in ("http", "https"):
            raise ArchiveError(f"cannot fetch {url}: give an http(s) URL or the path of a file")
        terms = Terms(int(max_mb * 1e6), self._patience.timeout_s, check)
        wanted = _Wanted(Key("", name), (full_url(url, params),), terms, self._patience, verify=False)
        return self._fetch(wanted, refresh=refresh)

    @contextmanager
    def needing(self, uses: Mapping[tuple[str, str], int]) -> Iterator[Callable[[str, str], None]]:
        """Inside, no file of `uses`, by archive and path, makes room for others before it was used so often.

        Gives a function to be called with archive and path after each use.
        """
        with self._cache.needing({Key(*place): times for place, times in uses.items()}) as used:
            yield lambda archive_name, path: used(Key(archive_name, path))

    def held(self) -> dict[str, set[str]]:
        """Paths of the files that are in the cache, per archive."""
        return {name: self.ledger.held(name) for name in self._archives}

    def forget_missing(self, archive_name: str, paths: Iterable[str]) -> None:
        """Do not believe that these files are missing: the server was out of order when it said so."""
        keys = [Key(archive_name, path) for path in paths]
        self.ledger.forget_missing(keys)
        self._missing_now.difference_update(keys)

    def discard(self, archive_name: str, path: str, sha256: str | None = None) -> None:
        """Forget a cached file that turned out to be corrupt, so that the next `fetch` gets it anew.

        With `sha256`, only if it is still that file: another thread may have fetched a good one meanwhile.
        """
        self._cache.discard(Key(archive_name, path), sha256)

    def _wanted(self, archive_name: str, path: str) -> _Wanted:
        config = self._archives[archive_name]
        max_bytes, check = int(config.max_file_mb * 1e6), check_magic(PurePosixPath(path).name)
        return _Wanted(
            key=Key(archive_name, path),
            urls=tuple(file_url(base, path) for base in config.base_urls),
            terms=Terms(max_bytes, config.timeout_s, check, config.min_kb_per_s * 1e3),
            patience=self._patience_with(config),
            verify=config.verify == "at-fetch",
            accept_changes=config.changed_files == "accept",
        )

    def _patience_with(self, config: ArchiveConfig) -> Patience:
        pause = replace(self._patience.pause, give_up_s=config.max_outage_h * 3600)
        return replace(self._patience, attempts=config.attempts, max_connections=config.max_connections, pause=pause)

    def _fetch(self, wanted: _Wanted, *, refresh: bool = False) -> Fetched:
        self._cache.place(wanted.key)
        known = self._cache.find(wanted.key)
        if known and known.url in wanted.urls and not refresh:
            return self._fetched(wanted.key, known, from_cache=True)
        try:
            with self._cache.lock(wanted.key):
                before, known = known, self._cache.find(wanted.key)
                if known and known != before and known.url in wanted.urls:  # another thread or process was faster
                    return self._fetched(wanted.key, known, from_cache=True)
                self._refuse_missing(wanted)
                return self._renew(replace(wanted, terms=replace(wanted.terms, known=known)))
        except OSError as error:
            self._cache.part(wanted.key).discard()
            raise ArchiveError(
                f"cannot keep {self._cache.place(wanted.key)}: {error}; free space there, or choose another cache"
            ) from error

    def _refuse_missing(self, wanted: _Wanted) -> None:
        """Do not ask again for what these servers said not to have, unless that is wanted, and then once."""
        if self._retry_missing and wanted.key not in self._missing_now:
            return
        if answer := self.ledger.missing(wanted.key, wanted.urls):
            raise NotInArchive(answer)

    def _renew(self, wanted: _Wanted) -> Fetched:
        """Download into the cache, or keep the file that is there if a server says that it is still the same."""
        try:
            origin = self._download(wanted)
        except NotModified as answer:
            origin = replace(answer.known, url=answer.url)
            self.ledger.record(wanted.key, origin)
            return self._fetched(wanted.key, origin, from_cache=True)
        except NotInArchive as error:
            self.ledger.remember_missing(wanted.key, wanted.urls, str(error))
            self._missing_now.add(wanted.key)
            raise
        self._notice_change(wanted, origin)
        self._cache.keep(wanted.key, self._cache.part(wanted.key), origin)
        return self._fetched(wanted.key, origin, from_cache=False)

    def _notice_change(self, wanted: _Wanted, new: Origin) -> None:
        """Report a file of an archive that is not what the ledger says; pages from elsewhere change all the time."""
        old = self.ledger.origin(wanted.key)
        if old is None or old.sha256 == new.sha256 or not wanted.key.archive:
            return
        self.ledger.note_change(wanted.key, old, new, accepted=wanted.accept_changes)
        what = f"{new.url} is not the file it was: sha256 {new.sha256[:12]}…, before {old.sha256[:12]}… from {old.url}"
        LOG.warning("%s", what)
        if not wanted.accept_changes:
            self._cache.part(wanted.key).discard()
            raise ChangedUpstream(f'{what}; to take it, set changed_files = "accept" for archive {wanted.key.archive}')

    def _download(self, wanted: _Wanted) -> Origin:
        """Try every mirror, then wait and try them all again; attempts that fell into an outage do not count."""
        for _ in range(OUTAGES_PER_FILE):
            outages = self._outages(wanted)
            try:
                return self._attempts(wanted)
            except Transient as problem:
                last = problem
                if self._outages(wanted) == outages:
                    break
        raise last.error from last

    def _attempts(self, wanted: _Wanted) -> Origin:
        patience = wanted.patience
        attempts = stamina.retry_context(
            on=Transient,
            attempts=patience.attempts,
            timeout=None,
            wait_initial=patience.wait_initial_s,
            wait_max=patience.wait_max_s,
            wait_jitter=patience.wait_initial_s,
        )
        for attempt in attempts:
            with attempt:
                return self._from_a_mirror(wanted)
        raise AssertionError("stamina ends in a result or an error")

    def _from_a_mirror(self, wanted: _Wanted) -> Origin:
        self._wait_for_a_mirror(wanted)
        problems: list[Transient | ArchiveError] = []
        for url in wanted.urls:
            host = self._host(url, wanted.patience)
            if not host.answers:
                problems.append(Transient(ArchiveError(f"{host.name} is out of order")))
                continue
            try:
                origin = self._from(host, url, wanted)
                self._verify(wanted, origin)
                return origin
            except (Transient, ArchiveError) as problem:
                problems.append(problem)
        raise _worth_most(problems)

    def _wait_for_a_mirror(self, wanted: _Wanted) -> None:
        hosts = [self._host(url, wanted.patience) for url in wanted.urls]
        if any(host.answers for host in hosts):
            return
        if not any(host.wait(self._probe) for host in hosts):
            names, hours = ", ".join(host.name for host in hosts), wanted.patience.pause.give_up_s / 3600
            raise ArchiveError(f"{names} has been out of order for over {hours:.3g} h: run again when it is back")

    def _from(self, host: Host, url: str, wanted: _Wanted) -> Origin:
        """Download from one server, and let it know what that says about it."""
        try:
            with host.connection():
                origin = download(self._client, url, self._cache.part(wanted.key), wanted.terms)
        except Transient as problem:
            if problem.wait_s is not None:
                if problem.wait_s > max(wanted.patience.wait_max_s, host.patience_s):
                    asks = f"it asks to come back in {problem.wait_s:.0f} s: run again then"
                    raise ArchiveError(f"{problem.error}; {asks}") from problem
                host.leave_alone(problem.wait_s)
            elif problem.of_host:
                host.failed(str(problem))
            raise
        except (NotModified, NotInArchive):
            host.worked()
            raise
        host.worked(url)
        return origin

    def _verify(self, wanted: _Wanted, origin: Origin) -> None:
        """Read the whole file; a damaged one is worth another try unless it comes damaged in the same way."""
        if not wanted.verify:
            return
        part = self._cache.part(wanted.key)
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
        return is_alive(self._client, url, self._patience.timeout_s)

    def _outages(self, wanted: _Wanted) -> int:
        return sum(self._host(url, wanted.patience).outages for url in wanted.urls)

    def _host(self, url: str, patience: Patience) -> Host:
        """The server of `url`; the first limits named for it hold."""
        name = urlsplit(url).netloc
        with self._guard:
            if name not in self._hosts:
                self._hosts[name] = Host(name, patience.max_connections, patience.pause)
            return self._hosts[name]

    def _fetched(self, key: Key, origin: Origin, *, from_cache: bool) -> Fetched:
        return Fetched(self._cache.place(key), origin.sha256, origin.n_bytes, from_cache)


def _worth_most(problems: Sequence[Transient | ArchiveError]) -> Transient | ArchiveError:
    """Of what the mirrors said: what may pass, else what is wrong, and "does not exist" only if all say so."""
    for problem in problems:
        if isinstance(problem, Transient):
            return problem
    return next((problem for problem in problems if not isinstance(problem, NotInArchive)), problems[0])


def _local_file(path: Path, max_mb: float) -> Fetched:
    try:
        n_bytes = path.stat().st_size
        if n_bytes > max_mb * 1e6:
            raise ArchiveError(f"{path} has {n_bytes} bytes, more than the {max_mb:g} MB allowed")
        return Fetched(path, file_sha256(path), n_bytes, from_cache=True)
    except OSError as error:
        raise ArchiveError(
            f"cannot read {path}: {error.strerror}; give an http(s) URL or the path of a file"
        ) from error
