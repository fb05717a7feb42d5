"""What the cache of downloads holds and what its ledger remembers; for people, and for those who doubt their disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.cache import LOCKS, PARTS
from pipeline.errors import ArchiveError, FrameError
from pipeline.identity import check_file
from pipeline.ledger import Key, Ledger, Origin
from pipeline.naming import LEDGER_FILE
from pipeline.sums import file_sha256


@dataclass(frozen=True, slots=True)
class CacheContents:
    """The cache in numbers."""

    files: dict[str, int]
    """Per archive; '' are tables and pages from elsewhere."""
    gigabytes: dict[str, float]
    unfinished: int
    """Downloads that broke off and will be gone on with."""
    missing: list[dict[str, Any]]
    """Files that their servers said not to have, and when."""
    changes: list[dict[str, Any]]
    """Files that were not what they had been before."""


def describe_cache(folder: Path) -> CacheContents:
    """Read the ledger of the cache in `folder`.

    Raises
    ------
    ArchiveError
        There is no cache, or its ledger is damaged.
    """
    with _opened(folder) as ledger:
        files: Counter[str] = Counter()
        n_bytes: Counter[str] = Counter()
        for key, origin in ledger.files():
            files[key.archive] += 1
            n_bytes[key.archive] += origin.n_bytes
        gigabytes = {name: number / 1e9 for name, number in n_bytes.items()}
        unfinished = sum(1 for _ in (folder / PARTS).glob("*.part"))
        missing = [asdict(one) for one in ledger.all_missing()]
        changes = [asdict(one) for one in ledger.changes()]
        return CacheContents(dict(sorted(files.items())), dict(sorted(gigabytes.items())), unfinished, missing, changes)


def cache_problems(folder: Path) -> list[str]:
    """Read every file of the cache in `folder` whole; one line for each that is not what the ledger or its name says.

    Raises
    ------
    ArchiveError
        There is no cache, or its ledger is damaged.
    """
    with _opened(folder) as ledger:
        known = dict(ledger.files())
    found = [problem for key, origin in sorted(known.items()) for problem in _problems(folder, key, origin)]
    return found + list(_strangers(folder, known))


@contextmanager
def _opened(folder: Path) -> Iterator[Ledger]:
    if not (folder / LEDGER_FILE).is_file():
        raise ArchiveError(f"{folder} is not a cache of downloads: it has no {LEDGER_FILE}; name the --root of a build")
    with closing(Ledger(folder / LEDGER_FILE)) as ledger:
        yield ledger


def _problems(folder: Path, key: Key, origin: Origin) -> Iterator[str]:
    place = folder / key.archive / key.path
    if not place.is_file():
        yield f"{place} is gone; it is fetched again when it is needed"
    elif file_sha256(place) != origin.sha256:
        yield f"{place} is not what was fetched from {origin.url}; it is fetched again when it is needed"
    elif key.archive:
        try:
            check_file(place, place.name)
        except FrameError as error:
            yield f"{place}: {error}"


def _strangers(folder: Path, known: dict[Key, Origin]) -> Iterator[str]:
    expected = {folder / key.archive / key.path for key in known}
    for path in sorted(folder.rglob("*")):
        ours = path.relative_to(folder).parts[0] in (PARTS, LOCKS) or path.name.startswith(LEDGER_FILE)
        if path.is_file() and not ours and path not in expected:
            yield f"{path} is not in the ledger: nothing will ever use it; remove it"
