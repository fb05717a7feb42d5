"""Write a file whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp, mkstemp

from pipeline.errors import ConfigError


def sync_dir(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success fsync it and rename it over `path`, else remove it."""
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
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def creating(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder`; on success fsync all in it and rename it to `folder`, else remove it.

    Raises
    ------
    ConfigError
        `folder` exists, or where it should be cannot be written.
    """
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder} exists: name a folder that does not")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    except OSError as error:
        raise ConfigError(f"cannot make {folder}: {error.strerror}") from error
    try:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            if path.is_dir():
                sync_dir(path)
            else:
                with path.open("rb+") as handle:
                    os.fsync(handle.fileno())
        temporary.chmod(0o755)
        temporary.rename(folder)
        sync_dir(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
