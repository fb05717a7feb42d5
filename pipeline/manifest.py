"""The dataset as a whole: what objects it holds, where they are, what was left out and why.

A dataset directory holds `manifest.parquet` (one row per object), `skips.parquet` (one row per
thing left out), `frames.parquet` (one row per frame read), `dataset.json` (configuration, counts,
software) and `objects/`. Free of astropy, so that training machines can read it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.atomic import replacing, write_text
from pipeline.errors import DatasetError
from pipeline.naming import DATASET_FILE, FRAMES_FILE, MANIFEST_FILE, SKIPS_FILE, sequence_path
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
        ("psf_fwhm_arcsec", pa.float32()),
        ("sky_nmgy_arcsec2", pa.float32()),
        ("mjd_tai", pa.float64()),
        ("quality", pa.int8()),
    ]
)


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
        """Read the object's file. Raises SequenceError when it is missing or damaged."""
        return read_sequence(self.path / row.file)

    def table(self, file: str) -> pa.Table:
        """One of the Parquet tables of the dataset, whole."""
        return _read_table(self.path / file)


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset directory.

    Raises
    ------
    DatasetError
        It is not a dataset, is incomplete, or was written by newer software.
    """
    path = Path(path)
    try:
        info = DatasetInfo.model_validate_json((path / DATASET_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is not a dataset: it has no {DATASET_FILE}; was the build finished?") from error
    except ValidationError as error:
        raise DatasetError(f"{path / DATASET_FILE} is not a dataset description: {error.errors()[0]['msg']}") from error
    if info.schema_version > SCHEMA_VERSION:
        raise DatasetError(f"{path} has schema version {info.schema_version}, this software reads {SCHEMA_VERSION}")
    table = _read_table(path / MANIFEST_FILE)
    names = list(ObjectRow.__dataclass_fields__)
    if missing := set(names) - set(table.column_names):
        raise DatasetError(f"{path / MANIFEST_FILE} lacks columns {sorted(missing)}")
    rows = tuple(ObjectRow(**row) for row in table.select(names).to_pylist())
    for row in rows:
        if row.file != sequence_path(row.object_id):
            raise DatasetError(f"{path / MANIFEST_FILE}: object {row.object_id} points outside its place: {row.file!r}")
    return Dataset(path=path, info=info, objects=rows)


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
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
    """What is wrong with a dataset, in words; empty when every file is there, whole and of the schema."""
    dataset = open_dataset(path)
    found = []
    for row in dataset.objects:
        file = dataset.path / row.file
        if not file.is_file():
            found.append(f"{row.file} is missing")
        elif file_sha256(file) != row.sha256:
            found.append(f"{row.file} does not have the sha256 of the manifest")
    if content_hash((row.object_id, row.sha256) for row in dataset.objects) != dataset.info.content_hash:
        found.append(f"{MANIFEST_FILE} does not have the content hash of {DATASET_FILE}")
    return found


__all__ = [
    "FRAMES_FILE",
    "FRAMES_SCHEMA",
    "MANIFEST_FILE",
    "MANIFEST_SCHEMA",
    "SKIPS_FILE",
    "SKIPS_SCHEMA",
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
