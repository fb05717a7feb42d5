"""Files from archives over HTTP: fetched politely, checked, kept once.

A file counts as fetched only when it is whole, of the type, structure and identity that its name claims, and moved
into the cache with its origin (URL, size, sha256, validators) in the ledger. Everything else is an `ArchiveError`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Final, Self
from urllib.parse import unquote, urlsplit

import httpx

from pipeline.cache import Cache
from pipeline.errors import ArchiveError, ChangedUpstream, NotInArchive
from pipeline.ledger import Key, Ledger, Origin, Rate
from pipeline.mirrors import Mirrors, Patience, Wanted
from pipeline.sums import file_sha256
from pipeline.survey import ArchiveConfig, CacheConfig
from pipeline.transfer import Check, NotModified, Terms, anything, check_magic, file_url, full_url

LOG: Final = logging.getLogger(__name__)
USER_AGENT: Final = f"stripe82-convention/{version('stripe82-convention')} python-httpx/{httpx.__version__}"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file of an archive, on this machine."""

    path: Path
    sha256: str
    n_bytes: int
    from_cache: bool


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
        self.retry_missing = retry_missing
        self._client = httpx.Client(
            limits=httpx.Limits(max_connections=None),  # bounded per host
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},  # archive files are compressed already
        )
        self._mirrors = Mirrors(self._client)
        self._missing_now: set[Key] = set()
        for archive in self._archives.values():
            for url in archive.base_urls:
                self._mirrors.host(url, self._patience_with(archive))

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

    def recheck(self, archive_name: str, path: str) -> str:
        """The sha256 that a file has now, which was fetched before; it need not be in the cache any more.

        Its servers are asked whether it is still the same, and send it only if it is not.

        Raises
        ------
        NotInArchive, BadPayload, ChangedUpstream, ArchiveError
            As `fetch` does.
        """
        wanted = self._wanted(archive_name, path)
        earlier = self.ledger.origin(wanted.key)
        if earlier is None or self._cache.find(wanted.key):
            return self._fetch(wanted, refresh=True).sha256
        with self._disk_errors_named(wanted), self._cache.lock(wanted.key):
            terms = replace(wanted.terms, known=earlier)
            return self._renew_or_clean_up(replace(wanted, terms=terms, earlier=earlier)).sha256

    def fetch_url(
        self,
        url: str,
        name: str,
        params: Mapping[str, str] | None = None,
        *,
        max_mb: float = 256,
        refresh: bool = False,
        or_stale: bool = False,
        think_s: float = 0,
        check: Check = anything,
    ) -> Fetched:
        """Fetch a table or page from outside the archives' trees, cached as `name`; or open a local file.

        With `refresh` the server is asked again; the cached file stays if it says that nothing changed, and with
        `or_stale` also if it does not answer, which is logged; not if it says that there is no such file. A server that
        has to compute what it sends is given `think_s` for its first byte, if that is more than what others have.

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
        terms = Terms(int(max_mb * 1e6), max(self._patience.timeout_s, think_s), check)
        wanted = Wanted(Key("", name), (full_url(url, params),), terms, self._patience, verify=False)
        try:
            return self._fetch(wanted, refresh=refresh)
        except ArchiveError as error:
            known = self._cache.find(wanted.key)
            if not (or_stale and known and known.url in wanted.urls):
                raise
            if isinstance(error, NotInArchive):  # no bad moment of a server: it has been taken away
                path = self._fetched(wanted.key, known, from_cache=True).path
                raise NotInArchive(f"{error}; name one that is there: {path} is the copy of an earlier run") from error
            LOG.warning("%s; going on with the copy of an earlier run", error)
            return self._fetched(wanted.key, known, from_cache=True)

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

    def rates(self) -> dict[str, Rate]:
        """What a connection to each archive gave lately, where enough came to tell."""
        rates = {name: self.ledger.rate(name) for name in self._archives}
        return {name: rate for name, rate in rates.items() if rate}

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

    def _wanted(self, archive_name: str, path: str) -> Wanted:
        config = self._archives[archive_name]
        max_bytes, check = int(config.max_file_mb * 1e6), check_magic(PurePosixPath(path).name)
        return Wanted(
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

    def _fetch(self, wanted: Wanted, *, refresh: bool = False) -> Fetched:
        known = self._cache.find(wanted.key)
        if known and known.url in wanted.urls and not refresh:
            return self._fetched(wanted.key, known, from_cache=True)
        with self._disk_errors_named(wanted), self._cache.lock(wanted.key):
            before, known = known, self._cache.find(wanted.key)
            if known and known != before and known.url in wanted.urls:  # another thread or process was faster
                return self._fetched(wanted.key, known, from_cache=True)
            self._refuse_missing(wanted)
            earlier = self.ledger.origin(wanted.key) if wanted.key.archive else None  # pages change all the time
            terms = replace(wanted.terms, known=known)
            return self._renew_or_clean_up(replace(wanted, terms=terms, earlier=earlier))

    @contextmanager
    def _disk_errors_named(self, wanted: Wanted) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ArchiveError(
                f"cannot keep {self._cache.place(wanted.key)}: {error}; free space there, or choose another cache"
            ) from error

    def _renew_or_clean_up(self, wanted: Wanted) -> Fetched:
        """Leave no half a file on a disk that has no room for the whole."""
        try:
            return self._renew(wanted)
        except OSError:
            with suppress(OSError):
                self._cache.part(wanted.key).discard()
            raise

    def _refuse_missing(self, wanted: Wanted) -> None:
        """Do not ask again for what these servers said not to have, unless that is wanted, and then once."""
        if not wanted.key.archive or (self.retry_missing and wanted.key not in self._missing_now):
            return
        if answer := self.ledger.missing(wanted.key, wanted.urls):
            raise NotInArchive(answer)

    def _renew(self, wanted: Wanted) -> Fetched:
        """Download into the cache, or keep the file that is there if a server says that it is still the same."""
        try:
            return self._fetched(wanted.key, self._download(wanted), from_cache=False)
        except NotModified as answer:
            origin = replace(answer.known, url=answer.url)
            if self._cache.find(wanted.key):
                self.ledger.record(wanted.key, origin)
            return self._fetched(wanted.key, origin, from_cache=True)

    def _download(self, wanted: Wanted) -> Origin:
        """Download into the cache, and report what is not what it was."""
        try:
            origin = self._mirrors.download(wanted, self._cache.part(wanted.key))
        except NotInArchive as error:
            self.ledger.remember_missing(wanted.key, wanted.urls, str(error))
            self._missing_now.add(wanted.key)
            raise
        self._notice_change(wanted, origin)
        self._cache.keep(wanted.key, self._cache.part(wanted.key), origin)
        return origin

    def _notice_change(self, wanted: Wanted, new: Origin) -> None:
        """Report a file that is not what it was when it was last fetched."""
        old = wanted.earlier
        if old is None or old.sha256 == new.sha256:
            return
        self.ledger.note_change(wanted.key, old, new, accepted=wanted.accept_changes)
        what = f"{new.url} is not the file it was: sha256 {new.sha256[:12]}…, before {old.sha256[:12]}… from {old.url}"
        LOG.warning("%s", what)
        if not wanted.accept_changes:
            self._cache.part(wanted.key).discard()
            raise ChangedUpstream(f'{what}; to take it, set changed_files = "accept" for archive {wanted.key.archive}')

    def _fetched(self, key: Key, origin: Origin, *, from_cache: bool) -> Fetched:
        return Fetched(self._cache.place(key), origin.sha256, origin.n_bytes, from_cache)


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
