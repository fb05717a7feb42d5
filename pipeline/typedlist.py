"""Object lists whose columns have types, nulls and units: FITS tables, ECSV and Parquet, as rows of text cells.

Whatever these readers stumble over is the file's fault: hostile bytes make them fail in a dozen ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from astropy.io import ascii as text_tables
from astropy.io import fits
from astropy.table.meta import get_header_from_yaml

from pipeline.bands import BANDS
from pipeline.errors import CatalogError
from pipeline.fitsfile import blaming, parse_fits
from pipeline.textlist import check_rows, decode

MAX_COLUMN_BYTES: Final = 256 * 2**20
MAX_CELL_BYTES: Final = 1024
"""A Parquet dictionary can repeat one string of 100 MB for every row."""
MAX_YAML_BYTES: Final = 2**20
"""Of column descriptions; YAML is read at about 0.2 MB/s."""
ANGLES: Final = frozenset({"ra", "dec"})
DEGREES_PER: Final[Mapping[str, float]] = {
    **dict.fromkeys(("", "deg", "degree", "degrees"), 1.0),
    **dict.fromkeys(("hourangle", "h", "hr", "hour", "hours"), 15.0),
    **dict.fromkeys(("rad", "radian", "radians"), math.degrees(1)),
}
NUMBERS: Final = frozenset({"ra", "dec", "peak_r_mag", *BANDS})


@dataclass(frozen=True, slots=True)
class Column:
    """One column: plain Python values, None for null, and the unit as the file spells it."""

    values: list[Any]
    unit: str


@dataclass(frozen=True, slots=True)
class TypedTable:
    """Names of all columns, and a way to read one by its index."""

    path: Path
    kind: str
    names: tuple[str, ...]
    read: Callable[[int], Column]

    def rows(self, columns: Mapping[str, int]) -> Iterator[dict[str, str]]:
        """Per row the cells of these columns by name, as text; angles in degrees."""
        with blaming(f"object list {self.path} is not {self.kind}", CatalogError):
            texts = [_texts(self.read(index), name, self.path) for name, index in columns.items()]
        for cells in zip(*texts, strict=True):
            yield dict(zip(columns, cells, strict=True))


def read_fits_table(content: bytes, path: Path) -> TypedTable:
    """The first table of a FITS file.

    Raises
    ------
    CatalogError
        The content is not FITS, or holds no table.
    """
    kind = "a FITS table"
    with blaming(f"object list {path} is not {kind}", CatalogError):
        hdus = parse_fits(content)
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
        if not tables:
            raise CatalogError(f"object list {path} is a FITS file without a table: is it an image?")
        hdu = tables[0]
        check_rows(int(hdu.header["NAXIS2"]), path)
        return TypedTable(path, kind, tuple(hdu.columns.names), lambda index: _fits_column(hdu, index))


def _fits_column(hdu: Any, index: int) -> Column:
    definition = hdu.columns[index]
    values = np.asarray(hdu.data.field(index))
    mask = values == definition.null if definition.null not in (None, "") else False
    return _array_column(values, mask, definition.unit)


def read_ecsv(content: bytes, path: Path) -> TypedTable:
    """An ECSV table.

    Raises
    ------
    CatalogError
        The content is not ECSV.
    """
    kind = "an ECSV table with a whole header"
    with blaming(f"object list {path} is not {kind}", CatalogError):
        lines = decode(content, path).split("\n")  # as lines: a single string may be taken for a file's name
        if sum(len(line) for line in lines if line.startswith("#")) > MAX_YAML_BYTES:
            raise ValueError(f"its header has over {MAX_YAML_BYTES} bytes")
        table = text_tables.read(lines, format="ecsv", guess=False)

    def read(index: int) -> Column:
        column = table.columns[index]
        values = np.asarray(getattr(column, "unmasked", column))
        return _array_column(values, getattr(column, "mask", None), getattr(column, "unit", None))

    return TypedTable(path, kind, tuple(table.colnames), read)


def _array_column(values: np.ndarray[Any, Any], mask: Any, unit: object) -> Column:
    if values.ndim != 1 or values.dtype == object:
        raise ValueError("a column does not have one value per row")
    masked = np.broadcast_to(False if mask is None else mask, values.shape).tolist()
    return Column(_masked(values.tolist(), masked), str(unit or ""))


def _masked(values: list[Any], mask: list[bool]) -> list[Any]:
    return [None if hidden else value for value, hidden in zip(values, mask, strict=True)]


def read_parquet(content: bytes, path: Path) -> TypedTable:
    """A Parquet file; units and masks where astropy has written it.

    Raises
    ------
    CatalogError
        The content is not Parquet.
    """
    kind = "a Parquet table"
    with blaming(f"object list {path} is not {kind}", CatalogError):
        schema = pq.read_schema(pa.BufferReader(content))
        texts = [field.name for field in schema if _is_text(field.type)]
        # As dictionaries: a string that is repeated for every row stays one string until its length is known.
        file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
        check_rows(file.metadata.num_rows, path)
        units = _parquet_units(schema)

    def read(index: int) -> Column:
        name = schema.names[index]
        if not (_is_text(schema.types[index]) or _is_number(schema.types[index])):
            raise ValueError(f"column {name} does not have one number or text per row but {schema.types[index]}")
        values = _parquet_values(file, name)
        if f"{name}.mask" in schema.names:
            values = _masked(values, _parquet_values(file, f"{name}.mask"))
        return Column(values, units.get(name, ""))

    return TypedTable(path, kind, tuple(schema.names), read)


def _is_text(kind: pa.DataType) -> bool:
    is_a = pa.types
    return bool(is_a.is_string(kind) or is_a.is_large_string(kind) or is_a.is_binary(kind) or is_a.is_dictionary(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _parquet_units(schema: pa.Schema) -> dict[str, str]:
    """Units by column, from the description that astropy leaves in a Parquet file."""
    description = (schema.metadata or {}).get(b"table_meta_yaml")
    if description is None:
        return {}
    if len(description) > MAX_YAML_BYTES:
        raise ValueError(f"its description has over {MAX_YAML_BYTES} bytes")
    columns = get_header_from_yaml(description.decode().split("\n"))["datatype"]
    return {column["name"]: str(column.get("unit", "")) for column in columns}


def _parquet_values(file: pq.ParquetFile, name: str) -> list[Any]:
    groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
    chunks = [group.column(column) for group in groups for column in range(group.num_columns)]
    size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == name)
    if size > MAX_COLUMN_BYTES:
        raise ValueError(f"column {name} opens to {size} bytes: refused")
    column = file.read(columns=[name]).column(0)
    for chunk in column.chunks:
        words = chunk.dictionary if pa.types.is_dictionary(chunk.type) else None
        if words is not None and (pc.max(pc.binary_length(words)).as_py() or 0) > MAX_CELL_BYTES:
            raise ValueError(f"column {name} has cells of over {MAX_CELL_BYTES} bytes")
    values: list[Any] = column.to_pylist()
    return values


def _texts(column: Column, name: str, path: Path) -> list[str]:
    """A column as text, '' for nulls: what a CSV file of the same content would have in its cells."""
    if name not in NUMBERS:
        return [_word(value, name, path) for value in column.values]
    scale = _degrees_per(column.unit, name, path) if name in ANGLES else 1.0
    return [_number(value, scale, name, path) for value in column.values]


def _degrees_per(unit: str, name: str, path: Path) -> float:
    scale = DEGREES_PER.get(unit.strip().lower())
    if scale is None:
        raise CatalogError(f"object list {path}: its {name} is in {unit[:20]!r}; give deg, hourangle, h or rad")
    return scale


def _number(value: Any, scale: float, name: str, path: Path) -> str:
    match value:
        case None:
            return ""
        case bytes() | str():
            if scale != 1:
                raise CatalogError(f"object list {path}: its {name} has a unit but holds text; give numbers in degrees")
            return _word(value, name, path)
    number = float(value)
    return "" if math.isnan(number) else repr(number * scale)


def _word(value: Any, name: str, path: Path) -> str:
    match value:
        case None:
            return ""
        case bytes():
            return value.decode().strip()
        case float() if math.isnan(value):
            return ""
        case float() if not value.is_integer() or abs(value) >= 2**53:
            raise CatalogError(
                f"object list {path}: its {name} {value!r} is a floating-point number, which does not keep ids and "
                "codes; save that column as integers or text"
            )
        case float():
            return str(int(value))
    return str(value).strip()
