"""A few whole numbers from a SkyServer SQL page."""

from __future__ import annotations

import csv

from pipeline.transfer import first_words


class NotATable(Exception):
    """The page is not the table that was asked for."""


def read_page(body: bytes, columns: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Rows of a CSV page of integers; its first line may be the name of the result set (`#Table1`).

    Raises
    ------
    NotATable
        The columns are not there, or a value is no whole number.
    """
    lines = [line for line in body.decode("utf-8", "replace").splitlines() if line and not line.startswith("#")]
    if lines and lines[0].lower().startswith("no "):  # "No objects have been found"
        return []
    try:
        rows = list(csv.DictReader(lines, strict=True))
        if not lines or not set(columns) <= set(next(csv.reader(lines[:1]))):
            raise KeyError("columns")
        return [tuple(int(row[column]) for column in columns) for row in rows]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise NotATable(f"no table of {', '.join(columns)} but {first_words(body)!r}") from error
