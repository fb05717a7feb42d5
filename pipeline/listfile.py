"""Write targets as a list that `read_catalog` gives back exactly, whatever class map it is read with."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import Table

from pipeline.atomic import replacing
from pipeline.catalog import Target
from pipeline.errors import ConfigError

COLUMNS: Final[Mapping[str, str]] = {
    "cid": "object_id",
    "ra_deg": "ra_deg",
    "dec_deg": "dec_deg",
    "label": "label",
    "class_name": "class_name",
    "confirmation": "confirmation",
    "peak_r_mag": "peak_r_mag",
}
"""Column of the list → attribute of the target."""


def list_writer(path: Path) -> Callable[[Path, Sequence[Target]], None]:
    """How a list is written to a file of this name: `.csv`, `.ecsv` or `.parquet`.

    Raises
    ------
    ConfigError
        The name ends in none of them.
    """
    if path.suffix not in _WRITERS:
        raise ConfigError(f"{path}: a list is written as {', '.join(_WRITERS)}; end the name in one of them")
    return _WRITERS[path.suffix]


def write_list(path: Path, targets: Sequence[Target]) -> None:
    """Write targets to `path`, whole or not at all, in the form that its name ends in.

    Raises
    ------
    ConfigError
        The name ends in none that is known, or the folder cannot be written to.
    """
    write = list_writer(path)
    try:
        with replacing(path) as temporary:
            write(temporary, targets)
    except OSError as error:
        raise ConfigError(f"cannot write the list {path}: {error.strerror or error}") from error


def _columns(targets: Sequence[Target]) -> dict[str, list[object]]:
    return {column: [getattr(target, name) for target in targets] for column, name in COLUMNS.items()}


def _write_csv(path: Path, targets: Sequence[Target]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for cells in zip(*_columns(targets).values(), strict=True):
            writer.writerow(_spelt(cell) for cell in cells)


def _spelt(cell: object) -> str:
    """Shortest text that reads back as the same; '' for NaN."""
    if isinstance(cell, float):
        return "" if math.isnan(cell) else repr(cell)
    return str(cell)


def _write_ecsv(path: Path, targets: Sequence[Target]) -> None:
    Table(_columns(targets)).write(path, format="ascii.ecsv", delimiter=",", overwrite=True)


def _write_parquet(path: Path, targets: Sequence[Target]) -> None:
    pq.write_table(pa.table(_columns(targets)), path)


_WRITERS: Final[Mapping[str, Callable[[Path, Sequence[Target]], None]]] = {
    ".csv": _write_csv,
    ".ecsv": _write_ecsv,
    ".parquet": _write_parquet,
}
