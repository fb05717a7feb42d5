"""The dataset as a whole: what objects it holds, where they are, what was left out and why.

A dataset directory holds `manifest.parquet` (one row per object), `skips.parquet` (one row per
thing left out), `frames.parquet` (one row per frame read), `dataset.json` (configuration, counts,
software, band statistics), `objects/`, and `SHA256SUMS` over all of it. Free of astropy, so that
training machines can read it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.atomic import replacing, write_text
from pipeline.columns import with_meanings
from pipeline.errors import ConfigError, DatasetError, NewerSchema
from pipeline.naming import (
    DATASET_FILE,
    FRAMES_FILE,
    LATEST_FILE,
    MANIFEST_FILE,
    SKIPS_FILE,
    SUMS_FILE,
    check_version,
    sequence_path,
)
from pipeline.sequences import SCHEMA_VERSION, Sequence, parse_sequence, read_content
from pipeline.statistics import FoldStatistics
from pipeline.sums import check_listed, check_sha256
from pipeline.validation import explain

_MANIFEST_COLUMNS: Final = pa.schema(
    [
        ("object_id", pa.string()),
        ("class_name", pa.string()),
        ("confirmation", pa.string()),
        ("ra_deg", pa.float64()),
        ("dec_deg", pa.float64()),
        ("fold", pa.int16()),
        ("group", pa.string()),
        ("step", pa.string()),
        ("file", pa.string()),
        ("sha256", pa.string()),
        ("n_images", pa.int32()),
        *[(f"n_{band}", pa.int32()) for band in "ugriz"],
        ("mjd_first", pa.float64()),
        ("mjd_last", pa.float64()),
        ("masked_fraction", pa.float32()),
        ("coverage", pa.float32()),
        ("psf_fwhm_arcsec", pa.float32()),
        ("cell", pa.string()),
    ]
)
_SKIPS_COLUMNS: Final = pa.schema(
    [
        ("reason", pa.string()),
        ("object_id", pa.string()),
        ("frame", pa.string()),
        ("detail", pa.string()),
    ]
)
_FRAMES_COLUMNS: Final = pa.schema(
    [
        ("archive", pa.string()),
        ("run", pa.int32()),
        ("rerun", pa.int32()),
        ("camcol", pa.int8()),
        ("field", pa.int32()),
        ("band", pa.string()),
        ("path", pa.string()),
        ("url", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("calibration_sha256", pa.string()),
        ("mask_sha256", pa.string()),
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
        *[(name, pa.float32()) for name in ("noise_ratio", "sky_offset", "bright_excess", "masked_excess")],
        ("first_object", pa.string()),
    ]
)
MANIFEST_SCHEMA: Final = with_meanings(_MANIFEST_COLUMNS, MANIFEST_FILE)
SKIPS_SCHEMA: Final = with_meanings(_SKIPS_COLUMNS, SKIPS_FILE)
FRAMES_SCHEMA: Final = with_meanings(_FRAMES_COLUMNS, FRAMES_FILE)
"""Versions of before lack the last five columns; in a version that took cells over from such a one they are null."""


ROWS_AT_ONCE: Final = 100_000
"""In one row group: a survey has a million frames."""
MAX_OBJECTS: Final = 1_000_000
"""An object list has no more rows."""


NO_MASK: Final = "no-mask"
VANISHED: Final = "vanished"
NOTES: Final = (NO_MASK, VANISHED)
"""Reasons of skips that tell of frames of which nothing was left out."""


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

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    dataset_id: str
    """Survey name and the first 12 hex digits of a hash of all that the dataset says."""
    schema_version: int = SCHEMA_VERSION
    survey: dict[str, Any]
    """The resolved survey description."""
    software: dict[str, str]
    packages_sha256: str = ""
    """Of `environment.txt`, everything that was installed."""
    input_hash: str
    """sha256 of the plan: catalogue, survey, and per cell what decides its content."""
    content_hash: str
    """sha256 over the sorted (object id, sha256 of its file)."""
    sources_sha256: str = ""
    """sha256 over the sorted (archive, path, sha256) of every file of an archive that was read."""
    catalog_sha256: str = ""
    """Of the object list."""
    standards_sha256: str = ""
    """Of the catalogue of standard stars, where the survey gives one."""
    counts: dict[str, int]
    size: int
    pixel_scale_arcsec: float
    band_statistics: tuple[FoldStatistics, ...] = ()
    """Per fold, of the objects of the other folds."""
    tables: dict[str, str] = Field(default={}, exclude=True)
    """sha256 of the tables, in schema versions 1 and 2; since 3 the list of sums has them."""


_UNTIL_SCHEMA_2: Final = ("seconds", "band_mean_nmgy", "band_std_nmgy")
"""Keys that dataset.json no longer has."""


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
    group: str = ""
    """Object id of the first of the objects within the duplicate radius; '' before schema version 3."""
    step: str = ""
    """Step of training that it serves where it does not test (`pipeline.splits.assign_steps`); '' before version 3."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset directory, opened."""

    path: Path
    info: DatasetInfo
    objects: tuple[ObjectRow, ...]

    def sequence(self, row: ObjectRow) -> Sequence:
        """Read the object's file, and be sure that it is the one that was published.

        Raises
        ------
        SequenceError
            It is missing or damaged.
        DatasetError
            It is another object's file or another version's, or says something else than the manifest.
        """
        path = self.path / row.file
        content = read_content(path)
        if hashlib.sha256(content).hexdigest() == row.sha256:
            return self.checked(row, parse_sequence(content, path, whole=True))
        self.checked(row, parse_sequence(content, path))  # which say more precisely what is wrong with it, if they know
        raise DatasetError(
            f"{path} is not the file of this version: it does not have the sha256 of {MANIFEST_FILE}, though it is "
            "whole; copy it from where the version is whole, or move the version away and build again"
        )

    def checked(self, row: ObjectRow, sequence: Sequence) -> Sequence:
        """The sequence, which was read from the object's file, if it is what the manifest says.

        Raises
        ------
        DatasetError
            It is another object's, has another number of images, or another label.
        """
        found, expected = (sequence.object_id, len(sequence)), (row.object_id, row.n_images)
        if found != expected:
            raise DatasetError(
                f"{self.path / row.file} is another object's file: object {found[0]} with {found[1]} images, "
                f"expected {expected[0]} with {expected[1]}; copy it from where the version is whole"
            )
        for name in ("class_name", "confirmation"):
            if (said := getattr(sequence, name)) != getattr(row, name):
                raise DatasetError(
                    f"{self.path / row.file} says {name} {said!r}, {MANIFEST_FILE} {getattr(row, name)!r}: copy both "
                    "from where the version is whole"
                )
        return sequence

    def table(self, file: str) -> pa.Table:
        """One of the Parquet tables of the dataset, whole.

        Raises
        ------
        DatasetError
            It is missing or damaged, or not the one that was published.
        """
        self.check_files(file)
        return read_table(self.path / file)

    def check_files(self, *files: str) -> None:
        """Be sure that files are the published ones, as far as the version says (raises as `table`)."""
        _check_published(self.path, self.info, *files)


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset directory, or the version that a survey's `latest` pointer names.

    Description and manifest are held against what the version says of them. Other tables and objects' files are when
    they are read.

    Parameters
    ----------
    path
        A published version, the text file `latest` beside it, or the folder that holds both.

    Raises
    ------
    DatasetError
        It is not a dataset, is incomplete, was changed, or was written by newer software.
    """
    path = version_dir(Path(path))
    _check_published(path, read_info(path), DATASET_FILE, MANIFEST_FILE)
    dataset = read_dataset(path)
    if content_hash((row.object_id, row.sha256) for row in dataset.objects) != dataset.info.content_hash:
        raise DatasetError(
            f"{path / MANIFEST_FILE} does not have the content hash of {DATASET_FILE}: copy both from where the "
            "version is whole, or move it away and build again"
        )
    return dataset


def read_dataset(path: Path) -> Dataset:
    """Open a version as it is, also one that was changed since it was published (raises as `open_dataset`)."""
    info = read_info(path)
    manifest = path / MANIFEST_FILE
    table = _read_manifest(manifest)
    columns = _columns(info.schema_version)
    _check_manifest(table, columns, manifest)
    rows = tuple(ObjectRow(**row) for row in table.select(columns).to_pylist())
    for row in rows:
        try:
            expected = sequence_path(row.object_id)
        except ConfigError as error:
            raise DatasetError(f"{manifest}: {error}") from error
        if row.file != expected:
            raise DatasetError(f"{manifest}: object {row.object_id} points outside its place: {row.file!r}")
    return Dataset(path=path, info=info, objects=rows)


def _check_published(path: Path, info: DatasetInfo, *names: str) -> None:
    """Whether files are the published ones, as far as the version says: one that is being built has no list yet."""
    if (path / SUMS_FILE).exists():
        check_listed(path, names)
        return
    for name in info.tables.keys() & set(names):
        check_sha256(path / name, info.tables[name], DATASET_FILE)


def version_dir(path: Path) -> Path:
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
    try:
        return path.parent / check_version(version)
    except ConfigError as error:
        raise DatasetError(f"{path} does not name a dataset version beside it: {error}") from error


def read_info(path: Path) -> DatasetInfo:
    """Read dataset.json of the dataset directory `path`.

    Raises
    ------
    DatasetError
        It is missing, damaged, or was written by newer software.
    """
    file = path / DATASET_FILE
    try:
        content = json.loads(file.read_bytes())
        _refuse_newer(content, path)
        info = DatasetInfo.model_validate(_present(content))
    except FileNotFoundError as error:
        what = f"it has no {DATASET_FILE}; was the build finished?" if path.exists() else "there is no such folder"
        raise DatasetError(f"{path} is not a dataset: {what}") from error
    except OSError as error:
        raise DatasetError(f"{path} is not a dataset: cannot read {DATASET_FILE}: {error.strerror}") from error
    except ValidationError as error:
        raise DatasetError(f"{file} is not a dataset description: {explain(error)}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{file} is not a dataset description: {error}") from error
    return info


def _refuse_newer(content: Any, path: Path) -> None:
    """Before anything else is looked at: a newer schema may have other keys."""
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerSchema(f"{path} has schema version {version}, this software reads 1 to {SCHEMA_VERSION}: update it")


def _present(content: Any) -> Any:
    """What dataset.json of any schema version says, in the form of the present one."""
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version < 3:
        return {key: value for key, value in content.items() if key not in _UNTIL_SCHEMA_2}
    return content


def _columns(version: int) -> list[str]:
    """Columns of the manifest that `ObjectRow` is made of."""
    return [name for name in ObjectRow.__dataclass_fields__ if version > 2 or name not in ("group", "step")]


def _check_manifest(table: pa.Table, columns: Iterable[str], where: Path) -> None:
    """Columns of the schema's types, and no null in those that training needs."""
    required = columns if "group" not in table.column_names else MANIFEST_SCHEMA.names
    if missing := {*required, *columns} - set(table.column_names):
        raise DatasetError(f"{where} lacks columns {sorted(missing)}")
    for name in required:
        expected, found = MANIFEST_SCHEMA.field(name).type, table.schema.field(name).type
        if found != expected:
            raise DatasetError(f"{where}: column {name} is of type {found}, expected {expected}")
    for name in columns:
        if table[name].null_count:
            raise DatasetError(f"{where}: column {name} has rows without a value")
    if pc.count_distinct(table["object_id"]).as_py() != len(table):
        raise DatasetError(f"{where}: an object is there twice")


def _read_manifest(path: Path) -> pa.Table:
    try:
        n_rows = pq.read_metadata(path).num_rows
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    if n_rows > MAX_OBJECTS:
        raise DatasetError(f"{path} has {n_rows} rows, more than the {MAX_OBJECTS} allowed: it is no manifest")
    return read_table(path)


def read_table(path: Path) -> pa.Table:
    """Read a Parquet table whole.

    Raises
    ------
    DatasetError
        It is missing, or is none.
    """
    try:
        return pq.read_table(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DatasetError:
    why = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
    return DatasetError(f"cannot read {path}: {why}; copy it from where the version is whole, or build again")


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows as Parquet, atomically, the same bytes for the same content."""
    left = iter(rows)
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        while piece := list(islice(left, ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(piece, schema=schema))


def write_info(path: Path, info: DatasetInfo) -> None:
    """Write dataset.json."""
    write_text(path / DATASET_FILE, info.model_dump_json(indent=2) + "\n")


def content_hash(files: Iterable[tuple[str, str]]) -> str:
    """sha256 over sorted (object id, sha256 of its file): equal for equal datasets, whatever the order of work."""
    digest = hashlib.sha256()
    for object_id, sha256 in sorted(files):
        digest.update(f"{object_id} {sha256}\n".encode())
    return digest.hexdigest()
