"""Whether a dataset, or one file of it, is what was written: what is wrong, and what to do about it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.errors import DatasetError, PipelineError
from pipeline.manifest import Dataset, ObjectRow, content_hash, file_sha256, open_dataset
from pipeline.naming import DATASET_FILE, MANIFEST_FILE, SUMS_FILE
from pipeline.sequences import open_sequence, parse_sequence, read_content
from pipeline.sums import files_below, read_sums

FETCH_AGAIN: Final = "copy it from where it is whole, or move the version away and build again"
NOT_OURS: Final = "move it out of the version"
REBUILD: Final = "move the version away and build again"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    file: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file} {self.what}"


def verify(path: Path) -> list[Problem]:
    """What is wrong with a dataset, or with one file: a sequence anywhere, or any file of a dataset.

    Raises
    ------
    DatasetError
        It cannot even be opened, or nothing says what it should be.
    """
    return verify_dataset(path) if path.is_dir() or not (path.exists() or path.suffix) else verify_file(path)


def verify_file(path: Path) -> list[Problem]:
    """What is wrong with one file: by its own seal if it is a sequence, and by the sums of its dataset if it is in one.

    Raises
    ------
    DatasetError
        It is neither.
    """
    if path.name == SUMS_FILE:
        return verify_dataset(path.parent)
    folder = next((parent for parent in path.absolute().parents if (parent / SUMS_FILE).is_file()), None)
    if folder is None and path.suffix != ".h5":
        raise DatasetError(
            f"nothing says what {path} should be: it is no sequence, and no folder above has {SUMS_FILE}"
        )
    if folder is not None:
        name = path.absolute().relative_to(folder).as_posix()
        if found := list(_sum_problems(folder, name, read_sums(folder).get(name))):
            return found
    if path.suffix == ".h5":
        try:
            open_sequence(path)
        except PipelineError as error:
            return [Problem(str(path), f"cannot be used: {error}", "copy it from where it is whole")]
    return []


def _sum_problems(folder: Path, name: str, expected: str | None) -> Iterator[Problem]:
    if expected is None:
        yield Problem(name, f"is not in {SUMS_FILE}", NOT_OURS)
    elif not (folder / name).is_file() or (folder / name).is_symlink():
        yield Problem(name, "is missing", FETCH_AGAIN)
    elif file_sha256(folder / name) != expected:
        yield Problem(name, f"does not have the sha256 of {SUMS_FILE}", FETCH_AGAIN)


def verify_dataset(path: str | Path) -> list[Problem]:
    """What is wrong with a dataset; empty when every file is there, whole, of the schema, and no other.

    Raises
    ------
    DatasetError
        It cannot even be opened.
    """
    dataset = open_dataset(path)
    # Not by what dataset.json says of its version alone, which a flipped bit changes.
    has_sums = dataset.info.schema_version > 2 or (dataset.path / SUMS_FILE).exists()
    sums = read_sums(dataset.path) if has_sums else None
    objects = {row.file for row in dataset.objects}
    found = []
    if sums is not None:
        others = {*sums, *files_below(dataset.path)} - {SUMS_FILE, *objects}
        found += [problem for name in sorted(others) for problem in _sum_problems(dataset.path, name, sums.get(name))]
    for row in dataset.objects:
        found += _object_problems(dataset, row, row.sha256 if sums is None else sums.get(row.file))
    if content_hash((row.object_id, row.sha256) for row in dataset.objects) != dataset.info.content_hash:
        found.append(Problem(MANIFEST_FILE, f"does not have the content hash of {DATASET_FILE}", REBUILD))
    return found


def _object_problems(dataset: Dataset, row: ObjectRow, listed: str | None) -> Iterator[Problem]:
    """Whether manifest, list of sums and file agree; the file is read once."""
    file = dataset.path / row.file
    if listed != row.sha256:
        yield Problem(row.file, f"has another sha256 in {MANIFEST_FILE} than in {SUMS_FILE}", REBUILD)
        return
    if file.is_symlink() or not file.is_file():
        yield Problem(row.file, "is missing", FETCH_AGAIN)
        return
    try:
        content = read_content(file)
        if hashlib.sha256(content).hexdigest() != row.sha256:
            yield Problem(row.file, f"does not have the sha256 of {MANIFEST_FILE}", FETCH_AGAIN)
            return
        sequence = dataset.checked(row, parse_sequence(content, file))
    except PipelineError as error:
        yield Problem(row.file, f"cannot be used: {error}", REBUILD)
        return
    for name in ("class_name", "confirmation", "ra_deg", "dec_deg"):
        if getattr(sequence, name) != getattr(row, name):
            what = f"says {name} {getattr(sequence, name)!r}, {MANIFEST_FILE} {getattr(row, name)!r}"
            yield Problem(row.file, what, REBUILD)
