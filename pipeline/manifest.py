"""The dataset as a whole: what objects it holds, where they are, what was left out and why.

A dataset directory holds `manifest.parquet` (one row per object), `skips.parquet` (one row per
thing left out), `frames.parquet` (one row per frame read), `dataset.json` (configuration, counts,
software) and `objects/`. Free of astropy, so that training machines can read it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.atomic import replacing, write_text
from pipeline.errors import ConfigError, DatasetError, PipelineError
from pipeline.naming import (
    DATASET_FILE,
    FRAMES_FILE,
    LATEST_FILE,
    MANIFEST_FILE,
    OBJECTS_FOLDER,
    SKIPS_FILE,
    sequence_path,
)
from pipeline.sequences import SCHEMA_VERSION, Sequence, read_sequence

MANIFEST_SCHEMA: Final = pa.schema(
    [
        ("object_id", pa.string()),
        ("class_name", pa.string()),
        ("confirmation", pa.string()),
        ("ra_deg", pa.float64()),
        ("dec_deg", pa.float64()),
        ("fold", pa.int16()),
        ("file", pa.string()),
        ("sha256", pa.string()),
        ("n_images", pa.int32()),
        *[(f"n_{band}", pa.int32()) for band in "ugriz"],
        ("mjd_first", pa.float64()),
        ("mjd_last", pa.float64()),
        ("cell", pa.string()),
    ]
)
SKIPS_SCHEMA: Final = pa.schema(
    [
        ("reason", pa.string()),
        ("object_id", pa.string()),
        ("frame", pa.string()),
        ("detail", pa.string()),
    ]
)
FRAMES_SCHEMA: Final = pa.schema(
    [
        ("archive", pa.string()),
        ("run", pa.int32()),
        ("rerun", pa.int32()),
        ("camcol", pa.int8()),
        ("field", pa.int32()),
        ("band", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("n_thumbnails", pa.int32()),
        ("n_partly_covered", pa.int32()),
        ("psf_fwhm_arcsec", pa.float32()),
        ("sky_nmgy_arcsec2", pa.float32()),
        ("mjd_tai", pa.float64()),
        ("quality", pa.int8()),
        ("zp_offset_mag", pa.float32()),
        ("zp_error_mag", pa.float32()),
        ("zp_scatter_mag", pa.float32()),
        ("zp_stars", pa.int32()),
        ("zp_flags", pa.int8()),
    ]
)

TABLES: Final = (MANIFEST_FILE, SKIPS_FILE, FRAMES_FILE)
_VERSION_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}")


@dataclass(frozen=True, slots=True)
class Skip:
    """One thing that is not in the dataset, and why. Empty strings where a key does not apply."""

    reason: str
    """Short, countable: 'unknown-class', 'bad-coordinates', 'duplicate-id', 'no-exposure', 'not-in-archive', …"""
    detail: str
    object_id: str = ""
    frame: str = ""


class DatasetInfo(BaseModel):
    """Content of dataset.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset_id: str
    """Survey name and the first 12 hex digits of the hash of everything that decides the content."""
    schema_version: int = SCHEMA_VERSION
    survey: dict[str, Any]
    """The resolved survey description."""
    software: dict[str, str]
    input_hash: str
    content_hash: str
    """sha256 over the sorted (object id, sha256 of its file)."""
    tables: dict[str, str] = {}
    """sha256 of each of the Parquet tables, by file name; empty where the software that wrote it did not say."""
    counts: dict[str, int]
    seconds: dict[str, float]
    """Wall time per step."""
    size: int
    pixel_scale_arcsec: float
    band_mean_nmgy: dict[str, float]
    band_std_nmgy: dict[str, float]


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One row of the manifest, as training needs it."""

    object_id: str
    class_name: str
    confirmation: str
    ra_deg: float
    dec_deg: float
    fold: int
    """Fold of the object, 0 … folds-1; -1 where it takes no part in splits (no class)."""
    file: str
    sha256: str
    n_images: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset directory, opened."""

    path: Path
    info: DatasetInfo
    objects: tuple[ObjectRow, ...]

    def sequence(self, row: ObjectRow) -> Sequence:
        """Read the object's file.

        Raises
        ------
        SequenceError
            It is missing or damaged.
        DatasetError
            It is another object's file, or holds another number of images than the manifest says.
        """
        sequence = read_sequence(self.path / row.file)
        found, expected = (sequence.object_id, len(sequence)), (row.object_id, row.n_images)
        if found != expected:
            raise DatasetError(
                f"{self.path / row.file} is another object's file: object {found[0]} with {found[1]} images, "
                f"expected {expected[0]} with {expected[1]}"
            )
        return sequence

    def table(self, file: str) -> pa.Table:
        """One of the Parquet tables of the dataset, whole."""
        return _read_table(self.path / file)


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset directory, or the version that a survey's `latest` pointer names.

    Parameters
    ----------
    path
        A published version, the text file `latest` beside it, or the folder that holds both.

    Raises
    ------
    DatasetError
        It is not a dataset, is incomplete, or was written by newer software.
    """
    path = _version_dir(Path(path))
    info = _read_info(path)
    manifest = path / MANIFEST_FILE
    table = _read_table(manifest)
    _check_manifest(table, manifest)
    rows = tuple(ObjectRow(**row) for row in table.select(list(ObjectRow.__dataclass_fields__)).to_pylist())
    for row in rows:
        try:
            expected = sequence_path(row.object_id)
        except ConfigError as error:
            raise DatasetError(f"{manifest}: {error}") from error
        if row.file != expected:
            raise DatasetError(f"{manifest}: object {row.object_id} points outside its place: {row.file!r}")
    if len({row.object_id for row in rows}) != len(rows):
        raise DatasetError(f"{manifest}: an object is there twice")
    return Dataset(path=path, info=info, objects=rows)


def _version_dir(path: Path) -> Path:
    """Follow a `latest` pointer, whether `path` is the pointer or the folder that holds it."""
    if path.is_dir() and not (path / DATASET_FILE).exists() and (path / LATEST_FILE).is_file():
        path = path / LATEST_FILE
    if path.name != LATEST_FILE or not path.is_file():
        return path
    try:
        with path.open("rb") as pointer:
            version = pointer.read(256).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} does not name a dataset version: {error}") from error
    if not _VERSION_NAME.fullmatch(version):
        raise DatasetError(f"{path} does not name a dataset version beside it: {version!r}")
    return path.parent / version


def _read_info(path: Path) -> DatasetInfo:
    file = path / DATASET_FILE
    try:
        info = DatasetInfo.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is not a dataset: it has no {DATASET_FILE}; was the build finished?") from error
    except OSError as error:
        raise DatasetError(f"{path} is not a dataset: cannot read {DATASET_FILE}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DatasetError(f"{file} is not a dataset description: {where} {first['msg']}") from error
    if info.schema_version > SCHEMA_VERSION:
        raise DatasetError(f"{path} has schema version {info.schema_version}, this software reads {SCHEMA_VERSION}")
    return info


def _check_manifest(table: pa.Table, where: Path) -> None:
    """Columns of the schema's types, and no null in those that training needs."""
    if missing := set(MANIFEST_SCHEMA.names) - set(table.column_names):
        raise DatasetError(f"{where} lacks columns {sorted(missing)}")
    for column in MANIFEST_SCHEMA:
        found = table.schema.field(column.name).type
        if found != column.type:
            raise DatasetError(f"{where}: column {column.name} is of type {found}, expected {column.type}")
    for name in ObjectRow.__dataclass_fields__:
        if table[name].null_count:
            raise DatasetError(f"{where}: column {name} has rows without a value")


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(f"cannot read {path}: {error}") from error


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows as Parquet, atomically, the same bytes for the same content."""
    table = pa.Table.from_pylist(list(rows), schema=schema)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_info(path: Path, info: DatasetInfo) -> None:
    """Write dataset.json."""
    write_text(path / DATASET_FILE, info.model_dump_json(indent=2) + "\n")


def content_hash(files: Iterable[tuple[str, str]]) -> str:
    """sha256 over sorted (object id, sha256 of its file): equal for equal datasets, whatever the order of work."""
    digest = hashlib.sha256()
    for object_id, sha256 in sorted(files):
        digest.update(f"{object_id} {sha256}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def verify_dataset(path: str | Path) -> list[str]:
    """What is wrong with a dataset, one line each; empty when every file is there, whole, of the schema and no other.

    Raises
    ------
    DatasetError
        It cannot even be opened.
    """
    dataset = open_dataset(path)
    found = [*_table_problems(dataset), *_stray_files(dataset)]
    for row in dataset.objects:
        found += _object_problems(dataset, row)
    if content_hash((row.object_id, row.sha256) for row in dataset.objects) != dataset.info.content_hash:
        found.append(f"{MANIFEST_FILE} does not have the content hash of {DATASET_FILE}")
    return found


def _table_problems(dataset: Dataset) -> Iterator[str]:
    for name in TABLES:
        file = dataset.path / name
        if not file.is_file():
            yield f"{name} is missing"
        elif dataset.info.tables and file_sha256(file) != dataset.info.tables.get(name):
            yield f"{name} does not have the sha256 of {DATASET_FILE}"


def _stray_files(dataset: Dataset) -> Iterator[str]:
    expected = {row.file for row in dataset.objects}
    for file in sorted((dataset.path / OBJECTS_FOLDER).rglob("*")):
        name = file.relative_to(dataset.path).as_posix()
        if name not in expected and (file.is_symlink() or not file.is_dir()):
            yield f"{name} is not in {MANIFEST_FILE}"


def _object_problems(dataset: Dataset, row: ObjectRow) -> Iterator[str]:
    file = dataset.path / row.file
    if not file.is_file():
        yield f"{row.file} is missing"
        return
    if file_sha256(file) != row.sha256:
        yield f"{row.file} does not have the sha256 of the manifest"
        return
    try:
        sequence = dataset.sequence(row)
    except PipelineError as error:
        yield str(error)
        return
    for name in ("class_name", "confirmation", "ra_deg", "dec_deg"):
        if getattr(sequence, name) != getattr(row, name):
            yield f"{row.file} says {name} {getattr(sequence, name)!r}, {MANIFEST_FILE} {getattr(row, name)!r}"


__all__ = [
    "FRAMES_FILE",
    "FRAMES_SCHEMA",
    "MANIFEST_FILE",
    "MANIFEST_SCHEMA",
    "SKIPS_FILE",
    "SKIPS_SCHEMA",
    "TABLES",
    "Dataset",
    "DatasetInfo",
    "ObjectRow",
    "Skip",
    "content_hash",
    "file_sha256",
    "open_dataset",
    "verify_dataset",
    "write_info",
    "write_table",
]
