"""SQL pages over a `Field.csv`: the SELECT is really executed, by SQLite in memory, and cut off as servers do it."""

from __future__ import annotations

import csv
import io
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.naming import CAS_FIELDS, SKYSERVER_FIELDS

SQL_PATH: Final = "/stripe82/en/tools/search/x_sql.asp"
_CAS_PATH: Final = re.compile(r"/dr\d{1,2}/en/tools/search/(x_sql\.aspx?|x_results\.aspx)")
"""Of DR8 and 9, 10, and later ones, as astroquery asks them."""
MAX_SQL_CHARS: Final = 8192
MAX_STEPS: Final = 20_000
"""Of 1000 virtual-machine instructions each: some seconds."""
_TOP: Final = re.compile(r"^(\s*select\s+(?:distinct\s+)?)top\s+(\d+)\s", re.IGNORECASE)
_ALLOWED: Final = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}


@dataclass(frozen=True, slots=True)
class SqlLimits:
    """What a page gives at most."""

    max_rows: int = 100_000
    """More are left out without a word: DR7's own limit."""
    max_bytes: int | None = None
    """More is refused with the words of an IIS server whose response buffer is full."""


class SqlError(Exception):
    """The query is not one SELECT, is wrong, or asks for too much."""


def field_table_of(path: str) -> str | None:
    """Place in the tree of the table that the page at `path` answers from; None where `path` is no SQL page."""
    if path == SQL_PATH:
        return SKYSERVER_FIELDS
    return CAS_FIELDS if _CAS_PATH.fullmatch(path) else None


def select_as_csv(field_csv: Path, sql: str, limits: SqlLimits | None = None) -> str:
    """Run one SELECT over the table `Field` and return CSV with a header line. `TOP n` is understood.

    Raises
    ------
    SqlError
        See there; the message is SQLite's where it is SQLite that objects.
    """
    if len(sql) > MAX_SQL_CHARS:
        raise SqlError(f"the query is longer than {MAX_SQL_CHARS} characters")
    limits = limits or SqlLimits()
    connection = _load(field_csv)
    try:
        connection.set_authorizer(_only_select)
        steps = iter(range(MAX_STEPS))
        connection.set_progress_handler(lambda: next(steps, None) is None, 1000)
        cursor = connection.execute(_translate(sql))
        rows = cursor.fetchmany(limits.max_rows)
        names = [column[0] for column in cursor.description or ()]
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise SqlError(str(error)) from error
    finally:
        connection.close()
    if not names:
        raise SqlError("only SELECT is answered here")
    page = _to_csv(names, rows)
    if limits.max_bytes is not None and len(page) > limits.max_bytes:
        raise SqlError("Response Buffer Limit Exceeded")
    return page


def _only_select(action: int, argument: str | None, *_: str | None) -> int:
    if action == sqlite3.SQLITE_FUNCTION and argument == "load_extension":
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def _translate(sql: str) -> str:
    """SQL Server's `SELECT TOP n …` in SQLite's words."""
    match = _TOP.match(sql)
    if not match:
        return sql
    return f"{match[1]}{sql[match.end() :].rstrip().rstrip(';')} LIMIT {match[2]}"


def _load(field_csv: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    with field_csv.open(newline="", encoding="utf-8") as handle:
        reader = csv.reader(handle)
        names = next(reader)
        columns = ", ".join(f'"{name}" NUMERIC' for name in names)
        connection.execute(f"CREATE TABLE Field ({columns})")
        marks = ", ".join("?" * len(names))
        connection.executemany(f"INSERT INTO Field VALUES ({marks})", reader)  # noqa: S608 (only question marks)
    connection.commit()
    return connection


def _to_csv(names: list[str], rows: list[tuple[object, ...]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return text.getvalue()
