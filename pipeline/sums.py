"""`SHA256SUMS`: the sha256 of every file of a dataset version, in the form that `sha256sum --check` reads."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from pipeline.atomic import write_text
from pipeline.errors import DatasetError
from pipeline.naming import SUMS_FILE

MAX_SUMS_BYTES: Final = 2**28
_COPY: Final = "copy it from where the version is whole"
_LINE: Final = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_.+/-]{1,255})")


def write_sums(folder: Path, known: Mapping[str, str]) -> None:
    """Write the sums of all files below `folder`; those that are `known`, by path, are not read again."""
    names = (file for file in files_below(folder) if file != SUMS_FILE)
    write_text(
        folder / SUMS_FILE, "".join(f"{known.get(name) or file_sha256(folder / name)}  {name}\n" for name in names)
    )


def read_sums(folder: Path) -> dict[str, str]:
    """sha256 of each file, by its path below `folder`.

    Raises
    ------
    DatasetError
        The list is missing, or is none.
    """
    path = folder / SUMS_FILE
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_SUMS_BYTES).decode("ascii").split("\n")
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing: {folder} is half deleted, or was made by older software") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    sums: dict[str, str] = {}
    if lines.pop() != "" or not lines:
        raise DatasetError(f"{path} is damaged: its last line is cut off; {_COPY}")
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None or ".." in match[2].split("/") or match[2] in sums:
            raise DatasetError(f"{path} is damaged: line {number} is not a sum and the name of a file; {_COPY}")
        sums[match[2]] = match[1]
    return sums


def check_listed(folder: Path, names: Iterable[str]) -> Mapping[str, str]:
    """Hold files against the list before anything rests on them; gives the list.

    Raises
    ------
    DatasetError
        The list is damaged, or a file is not the one that it speaks of.
    """
    sums = read_sums(folder)
    for name in names:
        check_sha256(folder / name, sums.get(name), SUMS_FILE)
    return sums


def check_sha256(file: Path, expected: str | None, where: str) -> None:
    """Be sure that a file of a version has the sha256 that is written in another file of it.

    Raises
    ------
    DatasetError
        It has not, or is missing.
    """
    if not file.is_file():
        raise DatasetError(f"{file} is missing: copy it from where the version is whole, or build again")
    if file_sha256(file) != expected:
        raise DatasetError(
            f"{file} does not have the sha256 of {where}: copy it from where the version is whole, or move the version "
            f"away and build again; `s82 dataset verify {file.parent}` looks at the other files, too"
        )


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def files_below(folder: Path) -> list[str]:
    """Paths of all files below `folder`, links and other things that are no folders among them, sorted."""
    found = [
        (Path(where) / name).relative_to(folder).as_posix()
        for where, folders, files in os.walk(folder)
        for name in [*files, *(name for name in folders if (Path(where) / name).is_symlink())]
    ]
    return sorted(found)
