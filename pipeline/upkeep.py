"""What may be cleared away below a root without loss: what is old, over its bound, or about something that is gone."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.atomic import storing
from pipeline.cache import PART_LIFE_S, PARTS, Cache
from pipeline.errors import ConfigError
from pipeline.ledger import Ledger
from pipeline.naming import LEDGER_FILE, cache_dir, datasets_dir, logs_dir, report_dir
from pipeline.versions import Collected, collect, gone

DAY_S: Final = 86400.0
BUILD_LIFE_DAYS: Final = 30.0
"""A broken-off build can be gone on with; nobody will, after so long."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """What of one kind was cleared away, or would be."""

    things: int
    n_bytes: int


def surveys(root: Path) -> list[Path]:
    """Folders of all surveys that have datasets below a root."""
    folder = datasets_dir(root)
    return sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))


def clear_versions(root: Path, keep: int, *, protected: Iterable[str], dry_run: bool) -> dict[str, Collected]:
    """Remove of each survey the versions before the newest `keep`; those that training runs rest on stay.

    Builds go, too, that were broken off long ago.

    Parameters
    ----------
    protected
        Dataset ids that stay.

    Raises
    ------
    ConfigError
        `keep` is less than 1.
    DatasetError
        A dataset's history is damaged, or another process has been changing it for long.
    """
    ids = set(protected)
    return {
        folder.name: collect(
            folder,
            keep,
            protected={one.removeprefix(f"{folder.name}-") for one in ids},
            unfinished=BUILD_LIFE_DAYS,
            dry_run=dry_run,
        )
        for folder in surveys(root)
    }


def clear_cache(root: Path, max_gb: float | None, *, dry_run: bool) -> Cleared:
    """Remove downloads that were broken off long ago, and the least recently used ones beyond `max_gb`; None: no bound.

    Raises
    ------
    ConfigError
        The bound is negative.
    ArchiveError
        The cache's ledger is damaged.
    """
    if max_gb is not None and max_gb < 0:
        raise ConfigError(f"a cache of {max_gb} GB: name 0 or more")
    folder = cache_dir(root)
    if not (folder / LEDGER_FILE).is_file():
        return Cleared(0, 0)
    parts = _sizes(_old(folder / PARTS, "*", PART_LIFE_S))
    bound = None if max_gb is None else int(max_gb * 1e9)
    before = _held(folder)
    if dry_run:
        return Cleared(len(parts), sum(parts) + max(0, before - bound if bound is not None else 0))
    with storing(folder), closing(Cache(folder, max_bytes=bound)):
        pass  # it sweeps old parts when it is opened, and makes room when it is closed
    return Cleared(len(parts), sum(parts) + before - _held(folder))


def clear_logs(root: Path, days: float, *, dry_run: bool) -> Cleared:
    """Remove log files that nothing was written to for so many days."""
    return _remove(_old(logs_dir(root), "*.jsonl", days * DAY_S), dry_run=dry_run)


def clear_reports(root: Path, *, dry_run: bool) -> Cleared:
    """Remove the pages about dataset versions that are gone; how many versions had any."""
    folders = [
        pages
        for folder in surveys(root)
        for version in gone(folder)
        if (pages := report_dir(root, f"{folder.name}-{version}")).is_dir()
    ]
    n_bytes = sum(sum(_sizes(path for path in folder.rglob("*") if path.is_file())) for folder in folders)
    for folder in [] if dry_run else folders:
        with storing(folder):
            shutil.rmtree(folder)
    return Cleared(len(folders), n_bytes)


def _held(folder: Path) -> int:
    with closing(Ledger(folder / LEDGER_FILE)) as ledger:
        return ledger.cached_bytes()


def _old(folder: Path, pattern: str, seconds: float) -> Iterator[Path]:
    oldest = time.time() - seconds
    return (path for path in folder.glob(pattern) if path.is_file() and path.stat().st_mtime < oldest)


def _sizes(files: Iterable[Path]) -> list[int]:
    return [file.stat().st_size for file in files]


def _remove(files: Iterable[Path], *, dry_run: bool) -> Cleared:
    found = list(files)
    n_bytes = sum(_sizes(found))
    for file in [] if dry_run else found:
        with storing(file):
            file.unlink(missing_ok=True)
    return Cleared(len(found), n_bytes)
