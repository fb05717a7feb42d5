"""Write a file whole or not at all, and say clearly where that cannot be done."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Final

from pipeline.errors import StorageError

_REMEDIES: Final = {
    errno.ENOSPC: "free some space there and run the same again: what is written stays",
    errno.EDQUOT: "free some space there and run the same again: what is written stays",
    errno.EROFS: "mount it writable, or choose another place",
    errno.EACCES: "choose another place, or have it made writable for you",
    errno.EPERM: "choose another place, or have it made writable for you",
    errno.EIO: "the disk is failing: choose another place",
}


def sync_dir(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Inside, a disk that is full, failing or not writable becomes one `StorageError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        raise StorageError(f"cannot write {path}: {os.strerror(error.errno)}; {_REMEDIES[error.errno]}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success fsync it and rename it over `path`, else remove it.

    Raises
    ------
    StorageError
        There is no room, or no right, to write; what was at `path` is still there.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
            sync_dir(path.parent)
        finally:
            with suppress(OSError):  # gone already, or on a disk that takes nothing any more
                temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, *parts: bytes) -> str:
    """Write `parts`, one after the other, to `path` atomically; the sha256 of the whole, in hexadecimal."""
    digest = hashlib.sha256()
    with replacing(path) as temporary, temporary.open("wb") as handle:
        for part in parts:
            handle.write(part)
            digest.update(part)
    return digest.hexdigest()
