"""What is known of every file that archives ever gave or said not to have; outlives the files themselves.

An SQLite database (write-ahead log: a killed process leaves it whole) that the threads and processes of one
machine share. Times are UTC.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from pipeline.errors import ArchiveError

BUSY_TIMEOUT_S: Final = 60
VERSION: Final = 1
PATHS_AT_ONCE: Final = 500
RATE_MIN_BYTES: Final = 500_000
"""Of a smaller file, the time is that of asking, not of sending."""
RATE_MIN_FILES: Final = 10
RATE_FILES: Final = 1000
"""The latest, for a rate."""
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS files (
    archive TEXT, path TEXT, url TEXT NOT NULL, sha256 TEXT NOT NULL, n_bytes INTEGER NOT NULL, etag TEXT NOT NULL,
    last_modified TEXT NOT NULL, seconds REAL NOT NULL, fetched_at TEXT NOT NULL, cached INTEGER NOT NULL,
    used_ns INTEGER NOT NULL,
    PRIMARY KEY (archive, path)
) WITHOUT ROWID;
CREATE VIEW IF NOT EXISTS origins AS
    SELECT archive, path, url, sha256, n_bytes, etag, last_modified, seconds FROM files;
CREATE INDEX IF NOT EXISTS in_cache ON files (used_ns, n_bytes) WHERE cached;
CREATE TABLE IF NOT EXISTS missing (
    archive TEXT, path TEXT, urls TEXT NOT NULL, answer TEXT NOT NULL, asked_at TEXT NOT NULL,
    PRIMARY KEY (archive, path)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (
    archive TEXT, path TEXT, url TEXT NOT NULL, old_sha256 TEXT NOT NULL, new_sha256 TEXT NOT NULL,
    noticed_at TEXT NOT NULL, accepted INTEGER NOT NULL, PRIMARY KEY (archive, path, new_sha256)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """A file of an archive: its path below the base URL. Pages from outside the archives have no archive name."""

    archive: str
    path: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a file came from, and how to ask whether it changed."""

    url: str
    sha256: str
    n_bytes: int
    etag: str = ""
    last_modified: str = ""
    seconds: float = 0.0
    """What the download took; 0 where it came in several parts."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What one connection to a server gave, over the latest downloads."""

    mb_per_s: float
    n_files: int


@dataclass(frozen=True, slots=True)
class Missing:
    """A file that every server of its archive said not to have."""

    archive: str
    path: str
    answer: str
    asked_at: str


@dataclass(frozen=True, slots=True)
class Change:
    """A file that is not any more what it was when it was first fetched."""

    archive: str
    path: str
    url: str
    old_sha256: str
    new_sha256: str
    noticed_at: str
    accepted: bool


class Ledger:
    """The database at `file`; safe to share between threads.

    Raises
    ------
    ArchiveError
        Here and at every use: the database is damaged, of newer software, or cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._guard = threading.Lock()
        with self._errors_named():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                file, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            # Changing to WAL does not wait for others that open a new ledger at the same moment.
            with FileLock(f"{file}-lock"):
                self._prepare()

    def _prepare(self) -> None:
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise ArchiveError(f"{self._file} was written by newer software (version {version}): update it")
        self._database.executescript(f"{_TABLES} PRAGMA user_version = {VERSION};")

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def origin(self, key: Key) -> Origin | None:
        """What the file was when it was last fetched, whether it still lies in the cache or not."""
        rows = self._run("SELECT * FROM origins WHERE archive = ? AND path = ?", key)
        return Origin(*rows[0][2:]) if rows else None

    def sha256_of(self, archive: str, paths: Sequence[str]) -> dict[str, str]:
        """sha256 of the files of an archive that are known, as they were last fetched, by path."""
        found: dict[str, str] = {}
        for start in range(0, len(paths), PATHS_AT_ONCE):
            piece = paths[start : start + PATHS_AT_ONCE]
            marks = ", ".join("?" * len(piece))
            sql = f"SELECT path, sha256 FROM files WHERE archive = ? AND path IN ({marks})"  # noqa: S608  (marks only)
            found |= dict(self._run(sql, archive, *piece))
        return found

    def record(self, key: Key, origin: Origin) -> None:
        """Take note of a file that is whole and about to be in the cache; it is not missing any more."""
        self._run(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?)",
            key, *astuple(origin), _now(), time.time_ns(),
        )  # fmt: skip
        self.forget_missing([key])

    def touch(self, key: Key) -> None:
        """Take note that the file was used, and so is there."""
        self._run("UPDATE files SET used_ns = ?3, cached = 1 WHERE archive = ?1 AND path = ?2", key, time.time_ns())

    def drop(self, key: Key) -> None:
        """Take note that the file is no longer in the cache. What it was stays known."""
        self._run("UPDATE files SET cached = 0 WHERE archive = ? AND path = ?", key)

    def forget(self, key: Key) -> None:
        """Know nothing of a file that turned out to be corrupt."""
        self._run("DELETE FROM files WHERE archive = ? AND path = ?", key)

    def held(self, archive: str) -> set[str]:
        """Paths of an archive's files that are in the cache."""
        return {path for (path,) in self._run("SELECT path FROM files WHERE archive = ? AND cached", archive)}

    def cached_bytes(self) -> int:
        """Size of all files of archives in the cache; pages from elsewhere do not count."""
        return int(self._run("SELECT coalesce(sum(n_bytes), 0) FROM files WHERE cached AND archive != ''")[0][0])

    def rate(self, archive: str) -> Rate | None:
        """What one connection to an archive gave; None while too little came from it to tell."""
        ((n_bytes, seconds, n_files),) = self._run(
            "SELECT sum(n_bytes), sum(seconds), count(*) FROM (SELECT n_bytes, seconds FROM files WHERE archive = ?"
            " AND seconds > 0 AND n_bytes >= ? ORDER BY fetched_at DESC LIMIT ?)",
            archive, RATE_MIN_BYTES, RATE_FILES,
        )  # fmt: skip
        return Rate(n_bytes / seconds / 1e6, n_files) if n_files >= RATE_MIN_FILES else None

    def least_recently_used(self) -> Iterator[tuple[Key, int, int]]:
        """Files of archives in the cache, with their sizes and when they were used [ns since 1970], oldest first."""
        rows = self._run(
            "SELECT archive, path, n_bytes, used_ns FROM files WHERE cached AND archive != '' ORDER BY used_ns, path"
        )
        return ((Key(archive, path), n_bytes, used_ns) for archive, path, n_bytes, used_ns in rows)

    def missing(self, key: Key, urls: Sequence[str]) -> str | None:
        """What these very servers answered when they said that they have no such file; None if they never did."""
        rows = self._run(
            "SELECT answer FROM missing WHERE archive = ?1 AND path = ?2 AND urls = ?3", key, json.dumps(urls)
        )
        return str(rows[0][0]) if rows else None

    def remember_missing(self, key: Key, urls: Sequence[str], answer: str) -> None:
        """Take note that these servers have no such file."""
        self._run("INSERT OR REPLACE INTO missing VALUES (?, ?, ?, ?, ?)", key, json.dumps(urls), answer, _now())

    def forget_missing(self, keys: Iterable[Key]) -> None:
        """Ask for these files again next time."""
        for key in keys:
            self._run("DELETE FROM missing WHERE archive = ? AND path = ?", key)

    def all_missing(self) -> list[Missing]:
        """Every file that is remembered as missing."""
        return [Missing(*row) for row in self._run("SELECT archive, path, answer, asked_at FROM missing")]

    def note_change(self, key: Key, old: Origin, new: Origin, *, accepted: bool) -> None:
        """Take note that a server now gives another file under the same name."""
        self._run(
            "INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?, ?, ?, ?)",
            key, new.url, old.sha256, new.sha256, _now(), accepted,
        )  # fmt: skip

    def changes(self) -> list[Change]:
        """Every change noticed so far, in the order of time."""
        rows = self._run("SELECT * FROM changes ORDER BY noticed_at, archive, path")
        return [replace(Change(*row), accepted=bool(row[-1])) for row in rows]

    def files(self) -> list[tuple[Key, Origin]]:
        """Every file that is in the cache."""
        rows = self._run("SELECT origins.* FROM origins JOIN files USING (archive, path) WHERE cached")
        return [(Key(*row[:2]), Origin(*row[2:])) for row in rows]

    def _run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """One statement, with keys spread out."""
        flat = [part for value in values for part in (astuple(value) if isinstance(value, Key) else (value,))]
        with self._guard, self._errors_named():
            return self._database.execute(sql, flat).fetchall()

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ArchiveError(
                f"cannot use the ledger {self._file}: {error}; free space there, or, if it is damaged, move it away: "
                "then every file is asked for again"
            ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
