"""Object lists that are text: the whitespace-separated master table, and CSV with commas, semicolons or tabs."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.errors import CatalogError
from pipeline.manifest import Skip

MAX_ROWS: Final = 1_000_000
"""The real list has 10,258 rows; a binary file of a few kB can claim 10^18."""
DELIMITERS: Final = ",;\t"
"""The first of these in a header separates its columns; without any, whitespace does."""


@dataclass(frozen=True, slots=True)
class TextTable:
    """A header, and the lines below it."""

    path: Path
    names: tuple[str, ...]
    delimiter: str | None
    """None: whitespace."""
    body: Iterable[str]

    def rows(self, columns: Mapping[str, int]) -> Iterator[dict[str, str] | Skip]:
        """Per line the cells of these columns by name; a skip where there are more or fewer cells than names."""
        for row in _split(self.body, self.delimiter, self.path):
            if len(row) != len(self.names):
                yield Skip("bad-row", f"{len(row)} cells under {len(self.names)} columns: {' '.join(row)[:80]}")
            else:
                yield {name: row[index].strip() for name, index in columns.items()}


def read_text_table(content: bytes, path: Path, header_words: frozenset[str]) -> TextTable:
    """Find the header and how cells are separated; blank lines and comments are left out.

    Some exports comment the header line out: the last comment before the rows is the header where the
    first line that is no comment has none of `header_words` (in lower case).

    Raises
    ------
    CatalogError
        The content is empty, not text, or a web page; while rows are read: it is not CSV.
    """
    lines = iter([line for line in decode(content, path).split("\n") if line.strip()])
    comments, first = [], ""
    for line in lines:
        if not line.startswith("#"):
            first = line
            break
        comments.append(line.lstrip("# \t"))
    delimiter, names = _header(first, path)
    body: Iterable[str] = lines
    if comments and not header_words & {name.lower() for name in names}:
        delimiter, names = _header(comments[-1], path)
        body = itertools.chain([first] if first else [], lines)
    if not names:
        raise CatalogError(f"object list {path} is empty")
    return TextTable(path, names, delimiter, (line for line in body if not line.startswith("#")))


def decode(content: bytes, path: Path) -> str:
    """The text of a list, its lines ending in \\n alone.

    Raises
    ------
    CatalogError
        The content is not UTF-8, a web page, or too long.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CatalogError(
            f"object list {path} is not text in UTF-8 (byte {error.start}): unpack it, or export it as UTF-8 CSV"
        ) from error
    if "\0" in text:
        raise CatalogError(f"object list {path} is not text: unpack it, or export it as CSV")
    if text.lstrip()[:1] == "<":
        raise CatalogError(f"object list {path} is a web page or XML, not a table: fetch it again, or export it as CSV")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    check_rows(text.count("\n"), path)
    return text


def check_rows(n_rows: int, path: Path) -> None:
    """Raise CatalogError where there are more than any object list has."""
    if n_rows > MAX_ROWS:
        raise CatalogError(f"object list {path} has {n_rows} rows, over {MAX_ROWS}: this is not an object list")


def _header(line: str, path: Path) -> tuple[str | None, tuple[str, ...]]:
    """How the cells of a header are separated, and the names in it."""
    delimiter = next((mark for mark in DELIMITERS if mark in line), None)
    return delimiter, tuple(name.strip() for row in _split([line], delimiter, path) for name in row)


def _split(lines: Iterable[str], delimiter: str | None, path: Path) -> Iterator[list[str]]:
    if delimiter is None:
        yield from (line.split() for line in lines)
        return
    try:
        # Strict: else a quote that nobody closes swallows all rows below it and counts as one bad row.
        ended = (f"{line}\n" for line in lines)
        yield from csv.reader(ended, delimiter=delimiter, skipinitialspace=True, strict=True)
    except csv.Error as error:
        raise CatalogError(f"object list {path} is not CSV: {error}") from error
