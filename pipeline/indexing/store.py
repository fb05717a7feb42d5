"""The file that a survey's exposure index is kept in: Parquet, with the provenance of every part in its metadata.

The metadata also has a sha256 over all values and the provenance, so that a damaged file is told from a whole one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.atomic import replacing
from pipeline.errors import ExposureIndexError
from pipeline.exposures import join
from pipeline.indexing.columns import COLUMNS, SCHEMA, archive_column, flat, index_of
from pipeline.indexing.parts import Part, Provenance

FORMAT_VERSION: Final = 1
"""Raised when the columns, or what a reader makes of a source, change."""
METADATA_KEY: Final = b"exposure_index"


def write_parts(path: Path, parts: Sequence[Part], fingerprint: str, *, complete: bool = True) -> None:
    """Write all parts, in order, as one file; it appears whole or not at all. Not `complete`: parts are lacking."""
    table = flat(join([part.rows for part in parts]))
    provenance = [asdict(part.provenance) for part in parts]
    record: dict[str, Any] = {"format_version": FORMAT_VERSION, "fingerprint": fingerprint, "complete": complete}
    record |= {"sha256": _digest(table, provenance, complete=complete), "parts": provenance}
    with replacing(path) as temporary:
        metadata = {METADATA_KEY: json.dumps(record).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")


def read_parts(path: Path, fingerprint: str) -> tuple[list[Part], bool]:
    """The parts of a stored index, and whether they are all.

    Raises
    ------
    ExposureIndexError
        The file is missing, damaged, of another format, or the index of other sources.
    """
    try:
        file = pq.ParquetFile(path)
        record = json.loads((file.schema_arrow.metadata or {})[METADATA_KEY])
        if (record["format_version"], record["fingerprint"]) != (FORMAT_VERSION, fingerprint):
            raise ExposureIndexError(f"{path} is the index of other sources, or of another version of this software")
        table = file.read().replace_schema_metadata(None)
        if table.schema != SCHEMA or record["sha256"] != _digest(table, record["parts"], complete=record["complete"]):
            raise ExposureIndexError(f"{path} is damaged: its values do not have the sha256 that it names")
        return _parts(table, [_provenance(one) for one in record["parts"]]), bool(record["complete"])
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ExposureIndexError(f"{path} is not an exposure index that can be read: {error}") from error


def _provenance(record: dict[str, Any]) -> Provenance:
    """JSON has lists where the provenance has tuples."""
    values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in record.items()}
    return Provenance(**values)


def _parts(table: pa.Table, provenance: Sequence[Provenance]) -> list[Part]:
    whole = index_of(archive_column(table), {name: table[name].to_numpy() for name in COLUMNS})
    ends = list(accumulate(one.n_rows for one in provenance))
    slices = zip(provenance, [0, *ends], ends, strict=False)
    return [Part(one, whole.take(slice(start, end))) for one, start, end in slices]


def _digest(table: pa.Table, provenance: Sequence[dict[str, Any]], *, complete: bool) -> str:
    """sha256 over the values, column by column, and the provenance."""
    digest = hashlib.sha256(json.dumps([provenance, complete], sort_keys=True).encode())
    archive = table["archive"].combine_chunks().dictionary_encode()
    digest.update(json.dumps(archive.dictionary.to_pylist()).encode())
    digest.update(archive.indices.to_numpy())
    for name in COLUMNS:
        digest.update(table[name].to_numpy())
    return digest.hexdigest()
