"""Whether a dataset, or one file of it, is what was written: what is wrong, and what to do about it.

Two things say of most files what they should be: the list of sums and, of objects, the manifest, of files that are in
no folder `croissant.json`. Where a file and one of the two agree, it is the other that is damaged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.errors import DatasetError, PipelineError
from pipeline.manifest import Dataset, ObjectRow, content_hash, read_dataset, version_dir
from pipeline.naming import (
    CROISSANT_FILE,
    DATASET_FILE,
    LATEST_FILE,
    MANIFEST_FILE,
    OBJECTS_FOLDER,
    PACK_FILE,
    SUMS_FILE,
)
from pipeline.sequences import open_sequence, parse_sequence, read_content
from pipeline.sums import file_sha256, files_below, read_sums
from pipeline.versions import versions

COPY: Final = "copy it from where it is whole"
FETCH_AGAIN: Final = "copy it from where it is whole, or move the version away and build again"
FETCH_BOTH: Final = f"copy it, and {SUMS_FILE}, from where they are whole, or move the version away and build again"
"""Of a file that nothing but the list speaks of."""
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


@dataclass(frozen=True, slots=True)
class Verified:
    """What was read, by the name that it is cited by, and what is wrong with it."""

    name: str
    problems: tuple[Problem, ...]


def verify(path: Path) -> Verified:
    """Read a dataset, or one file, whole: a sequence anywhere, or any file of a dataset.

    Raises
    ------
    DatasetError
        It cannot even be opened, nothing says what it should be, or it is of a pack.
    """
    if pack := next((one for one in (path, *path.absolute().parents) if (one / PACK_FILE).is_file()), None):
        raise DatasetError(f"{path} is not of a dataset but of a pack: `s82 dataset verify-pack {pack}` checks it")
    is_file = path.is_file() or (path.suffix and not path.is_dir())
    if is_file and path.name not in (LATEST_FILE, SUMS_FILE):
        return Verified(str(path), tuple(verify_file(path)))
    folder = version_dir(path.parent if path.name == SUMS_FILE else path)
    dataset = read_dataset(folder)
    return Verified(f"{folder} ({dataset.info.dataset_id})", tuple(_dataset_problems(dataset)))


def verify_all(survey_folder: Path) -> list[Verified]:
    """Read every version of a survey whole, one that cannot be opened being a problem of its own.

    Raises
    ------
    DatasetError
        There is no such folder, or no version in it.
    """
    found = versions(survey_folder)
    if not any(version.info for version in found):
        raise DatasetError(f"{survey_folder} holds no version of a dataset: name the folder of a survey's versions")
    done = []
    for version in found:
        try:
            done.append(verify(version.path))
        except PipelineError as error:
            done.append(Verified(str(version.path), (Problem(version.name, f"cannot be opened: {error}", REBUILD),)))
    return done


def verify_file(path: Path) -> list[Problem]:
    """What is wrong with one file: by its own seal if it is a sequence, and by the sums of its dataset if it is in one.

    Raises
    ------
    DatasetError
        It is neither.
    """
    folder = next((parent for parent in path.absolute().parents if (parent / SUMS_FILE).is_file()), None)
    if folder is None and path.suffix != ".h5":
        raise DatasetError(
            f"nothing says what {path} should be: it is no sequence, and no folder above has {SUMS_FILE}"
        )
    if folder is not None:
        name = path.absolute().relative_to(folder).as_posix()
        if found := list(_Witnesses.of_version(folder, _readable(folder)).problems([name])):
            return found
    if path.suffix == ".h5":
        try:
            open_sequence(path)
        except PipelineError as error:
            return [Problem(str(path), f"cannot be used: {error}", COPY)]
    return []


def verify_dataset(path: str | Path) -> list[Problem]:
    """What is wrong with a dataset; empty when every file is there, whole, of the schema, and no other.

    Raises
    ------
    DatasetError
        It cannot even be opened.
    """
    return list(_dataset_problems(read_dataset(version_dir(Path(path)))))


def _dataset_problems(dataset: Dataset) -> Iterator[Problem]:
    witnesses = _Witnesses.of_version(dataset.path, dataset)
    found = list(witnesses.problems(witnesses.names()))
    yield from found
    damaged = {problem.file for problem in found}
    if MANIFEST_FILE in damaged:
        return  # what it says of objects and their files is nothing to hold them against
    for row in dataset.objects:
        if row.file not in damaged:
            yield from _object_problems(dataset, row)
    if DATASET_FILE not in damaged:
        hashed = content_hash((row.object_id, row.sha256) for row in dataset.objects)
        if hashed != dataset.info.content_hash:
            yield Problem(MANIFEST_FILE, f"does not have the content hash of {DATASET_FILE}", REBUILD)


def _readable(folder: Path) -> Dataset | None:
    try:
        return read_dataset(folder)
    except DatasetError:
        return None


@dataclass(frozen=True, slots=True)
class _Witnesses:
    """What a version says its files are: sha256 by file."""

    folder: Path
    listed: Mapping[str, str]
    """In the list of sums; before schema version 3 in manifest and `dataset.json`."""
    objects: Mapping[str, str] | None
    """In the manifest; None where that is damaged, or stands in for the list."""
    described: Mapping[str, str] | None
    """In `croissant.json`; None where that is damaged, or not there."""
    has_list: bool

    @classmethod
    def of_version(cls, folder: Path, dataset: Dataset | None) -> _Witnesses:
        """Those of a version; None where its manifest cannot be read."""
        of_objects = {row.file: row.sha256 for row in dataset.objects} if dataset else None
        # Not by what dataset.json says of its version alone, which a flipped bit changes.
        if dataset and of_objects is not None and dataset.info.schema_version < 3 and not (folder / SUMS_FILE).exists():
            return cls(folder, of_objects | dataset.info.tables, None, None, has_list=False)
        listed = read_sums(folder)
        described = _described(folder, listed.get(CROISSANT_FILE))
        if of_objects is not None:
            said = listed.get(MANIFEST_FILE), (described or {}).get(MANIFEST_FILE)
            of_objects = of_objects if file_sha256(folder / MANIFEST_FILE) in said else None
        return cls(folder, listed, of_objects, described, has_list=True)

    def names(self) -> list[str]:
        """All files that are there or should be."""
        there = files_below(self.folder) if self.has_list else []
        return sorted({*self.listed, *(self.objects or ()), *(self.described or ()), *there} - {SUMS_FILE})

    def problems(self, names: list[str]) -> Iterator[Problem]:
        """What is wrong with these files, or with what is said of them."""
        of_list, of_manifest = [], []
        found = {name: _sha256(self.folder / name) for name in names}
        borne_out = {found[name] for name in names if name not in self.listed and self._other_has(name, found[name])}
        for name, sha256 in found.items():
            listed, other = self.listed.get(name), self._other(name)
            misnamed = sha256 is None and listed in borne_out
            if sha256 == listed:
                if other is self.objects and other is not None and other.get(name) != sha256:
                    of_manifest.append(name)
            elif misnamed or self._other_has(name, sha256):
                of_list.append(name)
            elif listed is None:
                yield Problem(name, f"is not in {SUMS_FILE}", NOT_OURS)
            elif sha256 is None:
                yield Problem(name, "is missing", FETCH_AGAIN)
            else:
                what = f"does not have the sha256 of {self._where(name)}"
                yield Problem(name, what, FETCH_AGAIN if other is not None or not self.has_list else FETCH_BOTH)
        if of_list:
            yield Problem(SUMS_FILE, f"is wrong about {_named(of_list)}: the rest of the version agrees", COPY)
        if of_manifest:
            what = f"has another sha256 of {_named(of_manifest)} than the file itself and {SUMS_FILE}"
            yield Problem(MANIFEST_FILE, what, FETCH_AGAIN)

    def _other(self, name: str) -> Mapping[str, str] | None:
        """What knows, besides the list, all files of the kind."""
        if name.startswith(f"{OBJECTS_FOLDER}/"):
            return self.objects
        return self.described if "/" not in name and name != CROISSANT_FILE else None

    def _other_has(self, name: str, sha256: str | None) -> bool:
        """Whether that says of a file what it is, or that it is not of the version."""
        other = self._other(name)
        return other is not None and other.get(name) == sha256

    def _where(self, name: str) -> str:
        if name.startswith(f"{OBJECTS_FOLDER}/"):
            return MANIFEST_FILE if self.objects or not self.has_list else SUMS_FILE
        return SUMS_FILE if self.has_list else DATASET_FILE


def _sha256(file: Path) -> str | None:
    return file_sha256(file) if file.is_file() and not file.is_symlink() else None


def _named(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _described(folder: Path, sha256: str | None) -> dict[str, str] | None:
    """sha256 of all files that are in no folder, as `croissant.json` has them, if it has its own."""
    file = folder / CROISSANT_FILE
    if not file.is_file() or file_sha256(file) != sha256:
        return None
    try:
        distribution = json.loads(file.read_bytes())["distribution"]
        return {one["name"]: one["sha256"] for one in distribution if "sha256" in one}
    except (ValueError, RecursionError, TypeError, KeyError):
        return None


def _object_problems(dataset: Dataset, row: ObjectRow) -> Iterator[Problem]:
    """Whether a file that has the right sha256 is a sequence, and the one that the manifest says."""
    file = dataset.path / row.file
    try:
        sequence = dataset.checked(row, parse_sequence(read_content(file), file))
    except PipelineError as error:
        yield Problem(row.file, f"cannot be used: {error}", REBUILD)
        return
    for name in ("ra_deg", "dec_deg"):
        if getattr(sequence, name) != getattr(row, name):
            what = f"says {name} {getattr(sequence, name)!r}, {MANIFEST_FILE} {getattr(row, name)!r}"
            yield Problem(row.file, what, REBUILD)
