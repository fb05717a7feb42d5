"""Files from archives over HTTP: fetched politely, checked, kept once.

A file counts as fetched only when it is whole, of the type its name claims, and renamed into the
cache with its origin (URL, size, sha256, validators) beside it. Everything else is an `ArchiveError`.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from json import dumps, loads
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote, unquote, urlsplit

import httpx
import stamina
from filelock import FileLock

from pipeline.atomic import replacing, write_text
from pipeline.errors import ArchiveError, NotInArchive
from pipeline.manifest import file_sha256
from pipeline.survey import ArchiveConfig
from pipeline.transfer import Check, NotModified, Origin, Terms, Transient, anything, check_magic, download, full_url

USER_AGENT: Final = f"stripe82-convention/{version('stripe82-convention')} python-httpx/{httpx.__version__}"
MAX_REDIRECTS: Final = 4
N_LOCKS: Final = 1024


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
    """Also the longest Retry-After that is waited for; a server that asks for more is given up on."""


class Archive:
    """The archives of a survey behind one cache. A context manager; safe to share between threads.

    Parameters
    ----------
    archives
        Their servers in order of preference, and limits.
    cache
        Folder of fetched files, `<archive>/<path below the base URL>`; processes may share it.
    patience
        Waits between attempts, and all limits of what `fetch_url` fetches.
    """

    def __init__(self, archives: Iterable[ArchiveConfig], cache: Path, patience: Patience | None = None) -> None:
        self._archives = {archive.name: archive for archive in archives}
        self._cache = cache
        self._patience = patience or Patience()
        self._client = httpx.Client(
            follow_redirects=True,
            max_redirects=MAX_REDIRECTS,
            limits=httpx.Limits(max_connections=None),  # bounded per host by _slots
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},  # archive files are compressed already
        )
        self._slots: dict[str, threading.Semaphore] = {}
        self._absent: dict[tuple[str, str], str] = {}
        self._guard = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def fetch(self, archive_name: str, path: str) -> Fetched:
        """Fetch the file at `path` below an archive's base URL, from the first mirror that gives it whole.

        A cached file is used without asking if one of the archive's present servers gave it.

        Raises
        ------
        NotInArchive
            Every mirror says that it has no such file; remembered until this `Archive` is closed.
        BadPayload
            What came is not the file: truncated, too large, or of another type.
        ArchiveError
            No server gave an answer that helps, after all attempts; or the cache cannot be written.
        """
        if answer := self._absent.get((archive_name, path)):
            raise NotInArchive(answer)
        config = self._archives[archive_name]
        patience = replace(self._patience, attempts=config.attempts, max_connections=config.max_connections)
        urls = [full_url(base + quote(path)) for base in config.base_urls]
        place = self._place(archive_name, path)
        terms = Terms(
            int(config.max_file_mb * 1e6), config.timeout_s, check_magic(place.name), config.min_kb_per_s * 1e3
        )
        try:
            return self._fetch(urls, place, terms, patience)
        except NotInArchive as error:
            self._absent[archive_name, path] = str(error)
            raise

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
            As `fetch` does; or `url` is a path where no file is.
        """
        parts = urlsplit(url)
        if parts.scheme in ("", "file"):
            return _local_file(Path(unquote(parts.path) if parts.scheme else url), max_mb)
        if parts.scheme not in ("http", "https"):
            raise ArchiveError(f"cannot fetch {url}: give an http(s) URL or the path of a file")
        terms = Terms(int(max_mb * 1e6), self._patience.timeout_s, check)
        return self._fetch([full_url(url, params)], self._place(name), terms, self._patience, refresh=refresh)

    def discard(self, archive_name: str, path: str, sha256: str | None = None) -> None:
        """Forget a cached file that turned out to be corrupt, so that the next `fetch` gets it anew.

        With `sha256`, only if it is still that file: another thread may have fetched a good one meanwhile.
        """
        place = self._place(archive_name, path)
        with self._lock(place):
            known = _read_origin(place)
            if sha256 is None or known is None or known.sha256 == sha256:
                place.unlink(missing_ok=True)
                _origin_file(place).unlink(missing_ok=True)

    def _fetch(
        self, urls: Sequence[str], place: Path, terms: Terms, patience: Patience, *, refresh: bool = False
    ) -> Fetched:
        known = _read_origin(place)
        if known and known.url in urls and not refresh:
            return _fetched(place, known, from_cache=True)
        try:
            with self._lock(place):
                before, known = known, _read_origin(place)
                if known and known != before and known.url in urls:  # another thread or process was faster
                    return _fetched(place, known, from_cache=True)
                return self._renew(urls, place, replace(terms, known=known), patience)
        except OSError as error:
            raise ArchiveError(f"cannot keep {place}: {error}; free space there, or choose another cache") from error

    def _renew(self, urls: Sequence[str], place: Path, terms: Terms, patience: Patience) -> Fetched:
        """Download into the cache, or keep the file that is there if a server says that it is still the same."""
        try:
            with replacing(place) as temporary:
                origin, from_cache = self._download(urls, temporary, terms, patience), False
        except NotModified as answer:
            origin, from_cache = replace(answer.known, url=answer.url), True
        write_text(_origin_file(place), dumps(asdict(origin)))
        return _fetched(place, origin, from_cache=from_cache)

    def _download(self, urls: Sequence[str], target: Path, terms: Terms, patience: Patience) -> Origin:
        """Try every mirror, then wait and try them all again."""
        attempts = stamina.retry_context(
            on=_how_long_to_wait,
            attempts=patience.attempts,
            timeout=None,
            wait_initial=patience.wait_initial_s,
            wait_max=patience.wait_max_s,
            wait_jitter=patience.wait_initial_s,
        )
        try:
            for attempt in attempts:
                with attempt:
                    return self._from_a_mirror(urls, target, terms, patience)
        except Transient as problem:
            raise problem.error from problem
        raise AssertionError("stamina ends in a result or an error")

    def _from_a_mirror(self, urls: Sequence[str], target: Path, terms: Terms, patience: Patience) -> Origin:
        problems: list[Transient | ArchiveError] = []
        for url in urls:
            try:
                with self._slot(url, patience.max_connections):
                    return download(self._client, url, target, terms)
            except (Transient, ArchiveError) as problem:
                problems.append(problem)
        raise _worth_most(problems, patience)

    def _place(self, *parts: str) -> Path:
        relative = PurePosixPath(*parts)
        if relative.is_absolute() or ".." in relative.parts or "\0" in str(relative):
            raise ArchiveError(f"{'/'.join(parts)!r} is not a path inside the cache")
        return self._cache.joinpath(*relative.parts)

    def _lock(self, place: Path) -> FileLock:
        """One download per file across threads and processes. A fixed number of locks, so that they do not pile up."""
        stripe = zlib.crc32(str(place).encode()) % N_LOCKS
        return FileLock(self._cache / ".locks" / f"{stripe:03x}.lock")

    def _slot(self, url: str, limit: int) -> threading.Semaphore:
        """Room for one more connection to the host of `url`; the first limit named for a host holds."""
        host = urlsplit(url).netloc
        with self._guard:
            return self._slots.setdefault(host, threading.Semaphore(limit))


def _how_long_to_wait(error: Exception) -> bool | float:
    """For stamina: False ends the attempts, True waits as usual, a number is the server's own wish [s]."""
    if not isinstance(error, Transient):
        return False
    return True if error.wait_s is None else error.wait_s


def _worth_most(problems: Sequence[Transient | ArchiveError], patience: Patience) -> Transient | ArchiveError:
    """Of what the mirrors said: what may pass, else what is wrong, and "does not exist" only if all say so."""
    for problem in problems:
        if isinstance(problem, Transient):
            if (problem.wait_s or 0) <= patience.wait_max_s:
                return problem
            return ArchiveError(f"{problem.error}; it asks to come back in {problem.wait_s:.0f} s: run again then")
    return next((problem for problem in problems if not isinstance(problem, NotInArchive)), problems[0])


def _fetched(place: Path, origin: Origin, *, from_cache: bool) -> Fetched:
    return Fetched(place, origin.sha256, origin.n_bytes, from_cache)


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


def _origin_file(place: Path) -> Path:
    return place.with_name(f"{place.name}.origin.json")


def _read_origin(place: Path) -> Origin | None:
    """The origin of a cached file; None where the file or its record is missing, or they contradict each other."""
    try:
        origin = Origin(**loads(_origin_file(place).read_bytes()))
        whole = place.stat().st_size == origin.n_bytes and file_sha256(place) == origin.sha256
    except (OSError, ValueError, TypeError):
        return None
    return origin if whole else None
