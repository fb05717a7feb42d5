"""Fields from an index file of one's own: Parquet as `pipeline.indexing.store` writes it, CSV or ECSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import ExposureIndexError
from pipeline.exposures import ExposureIndex
from pipeline.indexing.columns import ARCHIVE, COLUMNS, archive_column, index_of
from pipeline.indexing.local import fetch_source, forget_source
from pipeline.indexing.parts import Part, Reading
from pipeline.survey import FileIndex
from pipeline.transfer import first_words

MAX_MB: Final = 512
MAX_ROWS: Final = 5_000_000
"""All of SDSS imaging has a million fields."""
_PARQUET_MAGIC: Final = b"PAR1"


def read_table_file(source: FileIndex, reading: Reading) -> list[Part]:
    """One part: the rows of the file's own archive, or all where it does not name archives.

    Raises
    ------
    ArchiveError
        The file cannot be had.
    ExposureIndexError
        It is not a table, lacks a column, has an empty cell in one, or has no row of the archive.
    """
    file, servers = fetch_source(source.source, reading, MAX_MB)

    def read() -> ExposureIndex:
        return read_table(file.path, reading.config.name)

    try:
        return [reading.of_file("table", source.source, file.sha256, servers, read)]
    except ExposureIndexError:
        forget_source(source.source, reading)
        raise


def read_table(file: Path, archive: str) -> ExposureIndex:
    """The exposures of one archive in a table file; errors as `read_table_file` has them."""
    table = _table(file)
    if missing := [
        name for name, column in COLUMNS.items() if column.default is None and name not in table.schema.names
    ]:
        raise ExposureIndexError(f"index file {file} has no column {', '.join(missing)}; docs/index.md lists them all")
    if ARCHIVE in table.schema.names:
        table = _of_archive(table, archive, file)
    columns = {name: _column(table, name, file) for name in COLUMNS if name in table.schema.names}
    return index_of(np.full(table.num_rows, archive), columns)


def _of_archive(table: pa.Table, archive: str, file: Path) -> pa.Table:
    try:
        names = archive_column(table)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ExposureIndexError(f"index file {file}: column {ARCHIVE} does not hold names: {error}") from error
    if archive not in names:
        raise ExposureIndexError(
            f"index file {file} has no row of archive {archive!r}, only of {sorted(set(map(str, names)))[:10]}"
        )
    return table.take(np.flatnonzero(names == archive))


def _column(table: pa.Table, name: str, file: Path) -> NDArray[Any]:
    column = COLUMNS[name]
    try:
        values = table[name].cast(column.type)
    except (pa.ArrowException, ValueError) as error:
        raise ExposureIndexError(f"index file {file}: column {name} is not of type {column.type}: {error}") from error
    if values.null_count and not (column.default is not None and np.isnan(column.default)):
        raise ExposureIndexError(f"index file {file}: column {name} has {values.null_count} empty cells")
    return np.asarray(values.to_numpy())


def _table(file: Path) -> pa.Table:
    """The whole table, whichever form it has."""
    try:
        with file.open("rb") as handle:
            head = handle.read(len(_PARQUET_MAGIC))
        table = _parquet_table(file) if head == _PARQUET_MAGIC else _text_table(file)
        if len(set(table.schema.names)) < table.num_columns:
            raise ValueError("two columns of the same name")
        return table
    except (OSError, ValueError, pa.ArrowException) as error:
        words = first_words(str(error).encode())
        raise ExposureIndexError(f"index file {file} is neither Parquet, CSV nor ECSV: {words}") from error


def _parquet_table(file: Path) -> pa.Table:
    """The known columns: what else a small file may hold can open to gigabytes."""
    with pq.ParquetFile(file) as parquet:
        if parquet.metadata.num_rows > MAX_ROWS:
            raise ValueError(f"it has {parquet.metadata.num_rows} rows, more than the {MAX_ROWS} allowed")
        names = parquet.schema_arrow.names
        if len(set(names)) < len(names):
            raise ValueError("two columns of the same name")
        return parquet.read([name for name in names if name in (*COLUMNS, ARCHIVE)])


def _text_table(file: Path) -> pa.Table:
    """CSV, or ECSV: the same after lines of comment, with spaces between cells unless it says otherwise."""
    text = file.read_text(encoding="utf-8-sig")
    body = [line for line in text.splitlines(keepends=True) if not line.startswith("#") and line.strip()]
    delimiter = "," if body and "," in body[0] else " "
    types = {name: column.type for name, column in COLUMNS.items()} | {ARCHIVE: pa.string()}
    return pa.csv.read_csv(
        pa.BufferReader("".join(body).encode()),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter),
        convert_options=pa.csv.ConvertOptions(column_types=types, null_values=["", '""', "null", "NULL"]),
    )
