"""Object lists as they come, whatever they come in → rows of named text cells.

What holds a list (text, FITS, ECSV, Parquet; gzipped or not) its bytes say, not its name. What its columns mean
the format says: the master table of the SDSS-II SN Survey, SNANA's HEAD table of it, or a user's own list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pipeline.compressed import unpack
from pipeline.errors import CatalogError, FrameError
from pipeline.manifest import Skip
from pipeline.textlist import TextTable, read_text_table
from pipeline.typedlist import TypedTable, read_ecsv, read_fits_table, read_parquet

MAX_BYTES: Final = 256 * 2**20
"""The real master table has 15 MB; anything near this, opened, is not an object list."""

ListFormat = Literal["sako-master", "snana-head", "list"]

_PLACES: Final[Mapping[str, tuple[str, ...]]] = {
    "object_id": ("cid", "object_id", "id", "snid"),
    "ra": ("ra_deg", "ra", "ra_1"),
    "dec": ("dec_deg", "dec", "decl", "dec_1"),
    "peak_r_mag": ("peak_r_mag", "peakrmag", "mag"),
}
"""Column names in order of preference, lower case; RA_1 and DEC_1 are what TOPCAT makes of a matched master table."""
_CALLED: Final = {"object_id": "object id", "ra": "right ascension", "dec": "declination", "label": "label"}
_LABELS: Final = ("classification", "label", "class", "class_sako")
_ALIASES: Final[Mapping[ListFormat, Mapping[str, tuple[str, ...]]]] = {
    "sako-master": {**_PLACES, "label": _LABELS},
    "snana-head": {**_PLACES, "label": ("sntype",)},
    "list": {**_PLACES, "label": _LABELS, "class_name": ("class_name",), "confirmation": ("confirmation",)},
}
_REQUIRED: Final[Mapping[ListFormat, tuple[str, ...]]] = {
    "sako-master": ("object_id", "ra", "dec", "label"),
    "snana-head": ("object_id", "ra", "dec", "label"),
    "list": ("object_id", "ra", "dec"),
}


@dataclass(frozen=True, slots=True)
class ObjectList:
    """Rows of a list, each as its cells by name: object_id, ra, dec [deg], label, peak_r_mag, class_name, confirmation.

    A column that the list lacks is neither in `columns` nor in the rows; a null of a typed column is ''.
    """

    format: ListFormat
    columns: frozenset[str]
    rows: Iterator[dict[str, str] | Skip]


def read_object_list(path: Path, content: bytes, list_format: ListFormat | Literal["auto"]) -> ObjectList:
    """Open the list that is in `content`; `path` is for messages.

    Raises
    ------
    CatalogError
        The content is no table, lacks a column or has it twice, or is larger than any object list; part of
        this shows only while its rows are read.
    """
    table = open_table(content, path)
    names = [name.strip().lower() for name in table.names]
    known = _guess(names, table) if list_format == "auto" else list_format
    columns = _find_columns(names, known, path)
    return ObjectList(known, frozenset(columns), table.rows(columns))


def open_table(content: bytes, path: Path) -> TextTable | TypedTable:
    """A table of any form that object lists have; `path` is for messages.

    Raises
    ------
    CatalogError
        The content is no table.
    """
    try:
        content = unpack(path.name, content, max_bytes=MAX_BYTES)
    except FrameError as error:
        raise CatalogError(f"cannot unpack object list {path}: {error}") from error
    if content.startswith(b"SIMPLE  ="):
        return read_fits_table(content, path)
    if content.startswith(b"PAR1"):
        return read_parquet(content, path)
    if content.removeprefix(b"\xef\xbb\xbf").startswith(b"# %ECSV"):
        return read_ecsv(content, path)
    return read_text_table(content, path, frozenset(_PLACES["ra"]))


def _guess(names: list[str], table: TextTable | TypedTable) -> ListFormat:
    if {"snid", "sntype"} <= set(names):
        return "snana-head"
    spaced = isinstance(table, TextTable) and table.delimiter is None
    return "sako-master" if "cid" in names and (spaced or "classification" in names) else "list"


def _find_columns(names: list[str], list_format: ListFormat, path: Path) -> dict[str, int]:
    """Index of each column that is wanted and there."""
    aliases = _ALIASES[list_format]
    chosen = {key: next((name for name in options if name in names), None) for key, options in aliases.items()}
    if missing := [key for key in _REQUIRED[list_format] if chosen[key] is None]:
        wanted = "; ".join(f"{_CALLED[key]} ({' or '.join(aliases[key])})" for key in missing)
        shown = ", ".join(names[:8])[:200]
        hint = " (a list of your own needs no label: give its format as list)" if missing == ["label"] else ""
        raise CatalogError(
            f"object list {path}, read as {list_format}, has no column for {wanted}{hint}; its columns are: {shown}"
        )
    if twice := sorted(name for name in chosen.values() if name is not None and names.count(name) > 1):
        raise CatalogError(f"object list {path} has several columns {', '.join(twice)}: leave one of each")
    return {key: names.index(name) for key, name in chosen.items() if name is not None}
