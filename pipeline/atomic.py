"""Write a file whole or not at all, and say clearly where that cannot be done."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp, mkstemp
from typing import Final

from pipeline.errors import ConfigError, StorageError

_REMEDIES: Final = {
    errno.ENOSPC: "free some space there and run the same again",
    errno.EDQUOT: "free some space there and run the same again",
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


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each of them lasting."""
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in new[::-1]:
        sync_dir(one.parent)


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
        make_folder(path.parent)
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


@contextmanager
def creating(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder`; on success fsync all in it and rename it to `folder`, else remove it.

    Raises
    ------
    ConfigError
        `folder` exists, or cannot be where it should.
    StorageError
        There is no room, or no right, to write.
    """
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder} exists: name a folder that does not")
    with storing(folder):
        make_parent(folder)
        temporary = Path(mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        try:
            yield temporary
            for path in [*temporary.rglob("*"), temporary]:
                _sync(path)
            temporary.chmod(0o755)
            temporary.rename(folder)
            sync_dir(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def make_parent(path: Path) -> None:
    """Make the folder that `path` shall be in.

    Raises
    ------
    ConfigError
        There can be none: a part of it is a file, say.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"cannot make {path}: {path.parent} cannot be a folder ({error.strerror})") from error


def _sync(path: Path) -> None:
    if path.is_dir():
        sync_dir(path)
    else:
        with path.open("rb+") as handle:
            os.fsync(handle.fileno())
