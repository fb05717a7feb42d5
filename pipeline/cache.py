"""The folder of fetched files: what lies there is whole, checked and in the ledger; old files make room for new ones.

`<archive>/<path below the base URL>`, the ledger, and two folders of the trade: `.parts` (files on their way) and
`.locks`. The threads and processes of one machine may share it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final

from filelock import FileLock, Timeout

from pipeline.atomic import sync_dir
from pipeline.errors import ArchiveError
from pipeline.ledger import Key, Ledger, Origin
from pipeline.naming import LEDGER_FILE
from pipeline.partial import Part
from pipeline.sums import file_sha256

N_LOCKS: Final = 1024
PARTS: Final = ".parts"
LOCKS: Final = ".locks"
PART_LIFE_S: Final = 14 * 86400
"""After so long nobody comes back for the rest of a file."""
GRACE_S: Final = 60.0
"""A file used so recently stays: another process may just have been told that it is here."""
FILLED_AGAIN: Final = 0.95
"""Part of the bound that is left after making room, so that not every file has to make room for itself."""


class Cache:
    """The cache in `folder`.

    Parameters
    ----------
    max_bytes
        The least recently used files go when there is more; None: no bound; 0: a file goes once it is not needed.
    """

    def __init__(self, folder: Path, *, max_bytes: int | None = None, grace_s: float = GRACE_S) -> None:
        self.folder = folder
        self.ledger = Ledger(folder / LEDGER_FILE)
        self._max_bytes = max_bytes
        self._grace_s = grace_s
        self._needs: Counter[Key] = Counter()
        self._kept: set[Key] = set()
        """What this process has put here: of these it knows that nobody is about to read them once it closes."""
        self._guard = threading.Lock()
        self._sweep_parts()

    def close(self) -> None:
        """Leave no more than the bound allows; what other processes have just used stays."""
        self._make_room(grace_s=self._grace_s, at_once=self._kept)
        self.ledger.close()

    def place(self, key: Key) -> Path:
        """Where the file is, or would be."""
        relative = PurePosixPath(key.archive, key.path)
        if relative.is_absolute() or ".." in relative.parts or "\0" in str(relative):
            raise ArchiveError(f"{relative} is not a path inside the cache")
        return self.folder.joinpath(*relative.parts)

    def part(self, key: Key) -> Part:
        """Where the file grows until it is whole and checked."""
        name = hashlib.sha256(f"{key.archive}\0{key.path}".encode()).hexdigest()[:32]
        return Part(self.folder / PARTS / f"{name}.part")

    def lock(self, key: Key) -> FileLock:
        """One download per file across threads and processes. A fixed number of locks, so that they do not pile up."""
        stripe = zlib.crc32(str(self.place(key)).encode()) % N_LOCKS
        return FileLock(self.folder / LOCKS / f"{stripe:03x}.lock")

    def find(self, key: Key) -> Origin | None:
        """The origin of a file that is here, read whole and still what the ledger says; else None."""
        place = self.place(key)
        origin = self.ledger.origin(key)
        if origin is None:
            return None
        try:
            whole = place.stat().st_size == origin.n_bytes and file_sha256(place) == origin.sha256
        except OSError:
            return None
        if whole:
            self.ledger.touch(key)
        return origin if whole else None

    def keep(self, key: Key, part: Part, origin: Origin) -> None:
        """Move a whole and checked file to its place.

        The ledger first: a process killed in between leaves a whole part, which the next one moves here unfetched.
        """
        place = self.place(key)
        place.parent.mkdir(parents=True, exist_ok=True)
        with part.path.open("rb") as file:
            os.fsync(file.fileno())
        self.ledger.record(key, origin)
        part.path.chmod(0o644)
        part.path.replace(place)
        sync_dir(place.parent)
        part.discard()
        self._kept.add(key)
        self._make_room(grace_s=self._grace_s)

    def discard(self, key: Key, sha256: str | None = None) -> None:
        """Take out a file that is not what it should be, and forget it; with `sha256`, only if it is still that one."""
        with self.lock(key):
            known = self.find(key)
            if sha256 is None or known is None or known.sha256 == sha256:
                self.ledger.forget(key)
                self.place(key).unlink(missing_ok=True)

    @contextmanager
    def needing(self, uses: Mapping[Key, int]) -> Iterator[Callable[[Key], None]]:
        """Inside, no file of `uses` makes room for others before the function it gives was called so often for it."""
        left = Counter(uses)
        with self._guard:
            self._needs.update(left)
        try:
            yield lambda key: self._release(key, left, 1)
        finally:
            for key, times in list(left.items()):
                self._release(key, left, times)

    def _release(self, key: Key, left: Counter[Key], times: int) -> None:
        with self._guard:
            times = min(times, left[key])
            if times <= 0:
                return
            left[key] -= times
            self._needs[key] -= times
            over = self._needs[key] <= 0
            if over:
                del self._needs[key]
        if over and self._max_bytes == 0:
            self._remove_unless_needed(key)

    def _remove_unless_needed(self, key: Key) -> bool:
        with suppress(Timeout), self.lock(key).acquire(timeout=0):  # whoever holds the lock wants the file
            with self._guard:
                if key in self._needs:
                    return False
            self.place(key).unlink(missing_ok=True)  # first: a file that the ledger does not count would stay for ever
            self.ledger.drop(key)
            self._kept.discard(key)
            return True
        return False

    def _make_room(self, *, grace_s: float, at_once: Collection[Key] = ()) -> None:
        if self._max_bytes is None or (too_much := self.ledger.cached_bytes() - self._max_bytes) <= 0:
            return
        too_much += int((1 - FILLED_AGAIN) * self._max_bytes)
        youngest_ns = time.time_ns() - int(grace_s * 1e9)
        for key, n_bytes, used_ns in self.ledger.least_recently_used():
            if too_much <= 0:
                return
            if used_ns > youngest_ns and key not in at_once:
                continue
            if self._remove_unless_needed(key):
                too_much -= n_bytes

    def _sweep_parts(self) -> None:
        """Remove what was begun long ago and never finished."""
        oldest = time.time() - PART_LIFE_S
        for file in (self.folder / PARTS).glob("*"):
            with suppress(OSError):
                if file.stat().st_mtime < oldest:
                    file.unlink()
