"""Index sources that are one file, on this machine or at a URL."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from pipeline.archive import Fetched
from pipeline.indexing.parts import Reading
from pipeline.transfer import no_web_page

WEB: Final = ("http", "https")


def servers_of(source: str) -> tuple[str, ...]:
    """Addresses that a file comes from: none where it is on this machine."""
    return (source,) if urlsplit(source).scheme in WEB else ()


def fetch_source(source: str, reading: Reading, max_mb: float) -> tuple[Fetched, tuple[str, ...]]:
    """The file and `servers_of` it; where an earlier index has it, its server is asked whether it has changed.

    Raises
    ------
    ArchiveError
        It cannot be had.
    """
    file = reading.archive.fetch_url(
        source, _place(source, reading), max_mb=max_mb, refresh=bool(reading.known), check=no_web_page
    )
    return file, servers_of(source)


def forget_source(source: str, reading: Reading) -> None:
    """Drop a file that turned out to be something else from the cache; one on this machine stays."""
    if servers_of(source):
        reading.archive.discard("", _place(source, reading))


def _place(source: str, reading: Reading) -> str:
    return f"index/{reading.config.name}/{PurePosixPath(urlsplit(source).path).name or 'table'}"
