"""A dataset in a form that others read without us: a folder of Parquet files, as Hugging Face lays them out.

One row per object, with lists over its images; images are fixed-size lists inside, so that pyarrow, pandas, polars and
`datasets.load_dataset` give arrays of M × H × W. One split per fold, so that objects that belong together stay so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.atomic import creating
from pipeline.card import export_card
from pipeline.columns import MEANINGS, Meaning, described
from pipeline.errors import DatasetError
from pipeline.manifest import Dataset, ObjectRow
from pipeline.naming import CARD_FILE, MANIFEST_FILE
from pipeline.outputs import check_output
from pipeline.sequences import COLUMNS, Sequence

Precision = Literal["float32", "float16"]

SHARD_BYTES: Final = 500_000_000
"""Most that the images of one file take up, unless one object takes more."""
GROUP_BYTES: Final = 32_000_000
"""The same for a row group: what is held in memory, here and by whoever reads the file in a stream."""
PARQUET: Final[dict[str, Any]] = {"compression": "zstd", "write_page_checksum": True}
"""Files that travel carry a checksum of each page; readers that know none leave it."""
UNLABELLED: Final = "unlabelled"
"""The split of objects without a class."""

_OBJECT_COLUMNS: Final = (
    "object_id", "class_name", "confirmation", "ra_deg", "dec_deg", "fold", "group", "step", "n_images",
)  # fmt: skip
_ARROW: Final[dict[str, pa.DataType]] = {
    "<f4": pa.float32(), "<f8": pa.float64(), "<i4": pa.int32(), "|u1": pa.uint8(), "|S64": pa.string(),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What of each image goes out."""

    dtype: Precision = "float32"
    """Of `image`; its variance is always float32."""
    variance: bool = False
    mask: bool = True


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the export and the objects in it."""

    file: str
    rows: tuple[ObjectRow, ...]


def export_dataset(dataset: Dataset, out: Path, options: ExportOptions = ExportOptions()) -> list[Shard]:
    """Write the folder `out`, whole or not at all, the same bytes for the same dataset and options.

    Raises
    ------
    ConfigError
        `out` exists, or is inside a dataset.
    SequenceError, DatasetError
        An object's file is damaged, another's, or has values that float16 cannot hold; or there is no object.
    StorageError
        There is no room, or no right, to write.
    """
    schema = export_schema(dataset.info.size, options)
    check_output(out)
    if not dataset.objects:
        raise DatasetError(f"{dataset.path} holds no object: there is nothing to export")
    planned = plan_shards(dataset, image_bytes(dataset.info.size, options))
    with creating(out) as folder:
        for shard in planned:
            file = folder / shard.file
            file.parent.mkdir(exist_ok=True)
            _write_shard(file, dataset, shard, schema)
        (folder / CARD_FILE).write_text(export_card(dataset, [shard.file for shard in planned]), encoding="utf-8")
    return planned


def export_schema(size: int, options: ExportOptions) -> pa.Schema:
    """Columns of the export, with unit and description of each: objects' from the manifest, images' from the HDF5."""
    kinds = {"fold": pa.int16(), "n_images": pa.int32(), "ra_deg": pa.float64(), "dec_deg": pa.float64()}
    ours = [described(name, kinds.get(name, pa.string()), MEANINGS[MANIFEST_FILE][name]) for name in _OBJECT_COLUMNS]
    left_out = {name for name, wanted in (("variance", options.variance), ("mask", options.mask)) if not wanted}
    for name, column in COLUMNS.items():
        if name in left_out:
            continue
        kind = pa.float16() if (name, options.dtype) == ("image", "float16") else _ARROW[column.dtype]
        if column.ndim == 3:
            kind = pa.list_(pa.list_(kind, size), size)
        ours.append(described(name, pa.list_(kind), Meaning(column.unit, column.description)))
    return pa.schema(ours)


def image_bytes(size: int, options: ExportOptions) -> int:
    """What one image takes up before compression."""
    per_pixel = np.dtype(options.dtype).itemsize + 4 * options.variance + 1 * options.mask
    return size**2 * per_pixel + sum(np.dtype(column.dtype).itemsize for column in COLUMNS.values() if column.ndim == 1)


def plan_shards(dataset: Dataset, bytes_per_image: int) -> list[Shard]:
    """Which objects go into which file: by split, in the order of their ids, filled up to SHARD_BYTES."""
    splits: dict[str, list[ObjectRow]] = {}
    for row in sorted(dataset.objects, key=lambda row: (row.fold < 0, row.fold, row.object_id)):
        splits.setdefault(split_of(row), []).append(row)
    shards = []
    for split, rows in splits.items():
        parts = list(_portions(rows, SHARD_BYTES // bytes_per_image))
        for number, part in enumerate(parts):
            shards.append(Shard(f"data/{split}-{number:05d}-of-{len(parts):05d}.parquet", tuple(part)))
    return shards


def split_of(row: ObjectRow) -> str:
    """Name of the split that an object is in."""
    return f"fold_{row.fold}" if row.fold >= 0 else UNLABELLED


def _portions(rows: Iterable[ObjectRow], most_images: int) -> Iterator[list[ObjectRow]]:
    """Consecutive objects with at most so many images together, and at least one object."""
    portion: list[ObjectRow] = []
    for row in rows:
        if portion and sum(other.n_images for other in portion) + row.n_images > most_images:
            yield portion
            portion = []
        portion.append(row)
    if portion:
        yield portion


def _write_shard(file: Path, dataset: Dataset, shard: Shard, schema: pa.Schema) -> None:
    size = dataset.info.size
    group_images = GROUP_BYTES // (9 * size**2)
    with pq.ParquetWriter(file, schema, **PARQUET) as writer:
        for rows in _portions(shard.rows, group_images):
            sequences = [dataset.sequence(row) for row in rows]
            for row, sequence in zip(rows, sequences, strict=True):
                if sequence.image.shape[1:] != (size, size):
                    found = " × ".join(map(str, sequence.image.shape[1:]))
                    raise DatasetError(f"{dataset.path / row.file} has images of {found} px, its dataset {size}")
            writer.write_table(_table(rows, sequences, schema), row_group_size=len(rows))


def _table(rows: list[ObjectRow], sequences: list[Sequence], schema: pa.Schema) -> pa.Table:
    """Some objects as rows of the export."""
    offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int32)
    columns = []
    for field in schema:
        if field.name in _OBJECT_COLUMNS:
            columns.append(pa.array([getattr(row, field.name) for row in rows], field.type))
            continue
        values = np.concatenate([getattr(sequence, field.name) for sequence in sequences])
        flat = _nested(values, field.type.value_type, sequences)
        columns.append(pa.ListArray.from_arrays(pa.array(offsets), flat, type=field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _nested(values: NDArray[np.generic], kind: pa.DataType, sequences: list[Sequence]) -> pa.Array:
    """One entry per image: a number, a text, or rows of pixels."""
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values.astype(str) if values.dtype.kind == "S" else values, kind)
    pixel = kind.value_type.value_type
    if pixel == pa.float16():
        values = _halved(values, sequences)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), pixel), type=kind.value_type)
    return pa.FixedSizeListArray.from_arrays(rows, type=kind)


def _halved(values: NDArray[np.generic], sequences: list[Sequence]) -> NDArray[np.float16]:
    """As float16.

    Raises
    ------
    DatasetError
        A pixel is brighter than float16 can say.
    """
    most = float(np.finfo(np.float16).max)
    for sequence in sequences:
        if sequence.image.size and float(np.nanmax(np.abs(sequence.image), initial=0)) > most:
            raise DatasetError(
                f"object {sequence.object_id} has a pixel beyond {most:.0f} nMgy, more than float16 holds: "
                "export as float32"
            )
    return values.astype(np.float16)
