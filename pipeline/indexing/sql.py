"""Table `Field` behind an SQL page: what runs there are, and their fields in pages that the server gives whole.

A server cuts an answer off at a number of rows (without a word) or of bytes (with one), so that runs
are asked for in boxes over (run, camcol, field), halved until a page is whole. That it is whole is
held against the server's own count of the fields of each run.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from pipeline.bands import BANDS
from pipeline.errors import ExposureIndexError
from pipeline.exposures import ExposureIndex, join
from pipeline.indexing.anchor import anchored
from pipeline.indexing.columns import index_of
from pipeline.indexing.parts import Part, Reading
from pipeline.transfer import first_words

KEYS: Final = ("run", "rerun", "camcol", "field", "quality")
COLUMNS: Final = (
    *KEYS,
    *("ra", "dec"),
    *(f"{name}_{band}" for name in ("mjd", "psfWidth", "sky") for band in BANDS),
    *(f"{term}_r" for term in "abcdef"),
)
"""Of `Field` in every release."""
STATUS_COLUMNS: Final = tuple(f"{name}_{band}" for name in ("imageStatus", "calibStatus") for band in BANDS)
"""Of DR8 and later."""
_COUNTS: Final = {
    "n_fields": "count(*)",
    "first_field": "min(field)",
    "last_field": "max(field)",
    "camcol_sum": "sum(camcol * field)",
    "quality_sum": "sum(quality * field)",
}
"""What is compared to see whether a run has changed. The products stay below 2^15, the sums below 2^31."""
MAX_RUNS: Final = 50
"""In one query, so that its URL stays short."""


@dataclass(frozen=True, slots=True)
class Database:
    """A table `Field`, and how it is asked."""

    server: str
    """As configured."""
    path: str
    """Of the page, below `server`."""
    ask: Callable[[str], bytes | None]
    """Gives the answer to an SQL query as CSV; None where the server says that it would be too long."""
    max_rows: int
    """An answer of so many rows is taken as cut off."""
    usual_rows: int
    """Rows that are asked for at once."""
    status: bool = False
    """Whether it has `STATUS_COLUMNS`."""
    sky_unit_nmgy: float = 1.0
    """Unit of its sky [nMgy/arcsec²]."""
    where: str = ""
    """What every query is restricted to, ending in AND."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that are read."""
        return (*COLUMNS, *(STATUS_COLUMNS if self.status else ()))


@dataclass(frozen=True, slots=True)
class RunCount:
    """What a database says of one run and rerun."""

    run: int
    rerun: int
    n_fields: int
    first_field: int
    last_field: int
    camcol_sum: int
    quality_sum: int

    @property
    def key(self) -> str:
        """Name of the part."""
        return f"{self.run}/{self.rerun}"

    @property
    def state(self) -> str:
        """Equal where nothing has changed."""
        fields = f"{self.n_fields} fields {self.first_field}-{self.last_field}"
        return f"{fields}, sums {self.camcol_sum} {self.quality_sum}"


@dataclass(frozen=True, slots=True)
class Box:
    """Runs, and ranges of camcols and fields, both ends included."""

    runs: tuple[int, ...]
    camcols: tuple[int, int]
    fields: tuple[int, int]

    def halves(self) -> tuple[Box, Box] | None:
        """Two boxes of half the runs, else half the camcols, else half the fields; None where there is one field."""
        if len(self.runs) > 1:
            middle = len(self.runs) // 2
            return Box(self.runs[:middle], self.camcols, self.fields), Box(
                self.runs[middle:], self.camcols, self.fields
            )
        if self.camcols[0] < self.camcols[1]:
            low, high = _halves(self.camcols)
            return Box(self.runs, low, self.fields), Box(self.runs, high, self.fields)
        if self.fields[0] < self.fields[1]:
            low, high = _halves(self.fields)
            return Box(self.runs, self.camcols, low), Box(self.runs, self.camcols, high)
        return None

    def sql(self, columns: Sequence[str], where: str) -> str:
        """The query for the box."""
        (first_camcol, last_camcol), (first_field, last_field) = self.camcols, self.fields
        return (
            f"SELECT {','.join(columns)} FROM Field WHERE {where} run IN ({','.join(map(str, self.runs))})"  # noqa: S608 (integers)
            f" AND camcol BETWEEN {first_camcol} AND {last_camcol} AND field BETWEEN {first_field} AND {last_field}"
        ).replace("  ", " ")


def _halves(ends: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    middle = sum(ends) // 2
    return (ends[0], middle), (middle + 1, ends[1])


@dataclass(frozen=True, slots=True)
class Page:
    """One whole answer."""

    box: Box
    sql: str
    sha256: str
    table: pa.Table


def read_database(database: Database, ranges: Iterable[str], reading: Reading) -> list[Part]:
    """A part per run and rerun, in their order; those that have not changed are taken from the earlier index.

    Parameters
    ----------
    ranges
        Conditions on `run`, disjoint, that together say which runs are wanted.

    Raises
    ------
    ArchiveError
        The server does not answer.
    ExposureIndexError
        Its answer is not the table that was asked for, or is not whole.
    """
    counts = sorted((count for one in ranges for count in _count(database, one)), key=lambda c: (c.run, c.rerun))
    known = reading.known
    changed = {c.run for c in counts if c.key not in known or known[c.key].provenance.state != c.state}
    fresh: dict[tuple[int, int], Part] = {}
    for batch in _batches([count for count in counts if count.run in changed], database.usual_rows):
        fresh |= _read_batch(database, batch, reading)
    servers = (database.server,)
    return [
        fresh[count.run, count.rerun] if count.run in changed else reading.keep(known[count.key], servers)
        for count in counts
    ]


def _count(database: Database, run_range: str) -> list[RunCount]:
    """Runs of the database in a range, with their counts."""
    counts = ", ".join(f"{sql} AS {name}" for name, sql in _COUNTS.items())
    sql = f"SELECT run, rerun, {counts} FROM Field WHERE {database.where} {run_range} GROUP BY run, rerun"  # noqa: S608
    page = database.ask(sql.replace("  ", " "))
    if page is None:
        raise ExposureIndexError(f"{database.server} cannot even count its fields: the list of runs is too long for it")
    names = ("run", "rerun", *_COUNTS)
    table = read_page(page, names, integers=names, where=f"{database.server} (fields per run)")
    if any(table[name].null_count for name in names):
        raise ExposureIndexError(f"{database.server} (fields per run): a run has no counts")
    return [RunCount(**row) for row in table.to_pylist()]


def _batches(counts: Sequence[RunCount], usual_rows: int) -> Iterator[list[RunCount]]:
    """Runs to ask for at once, reruns of a run together."""
    batch: list[RunCount] = []
    for n, count in enumerate(counts):
        whole = n == 0 or count.run != counts[n - 1].run
        n_rows = sum(each.n_fields for each in batch)
        if batch and whole and (n_rows + count.n_fields > usual_rows or len(batch) >= MAX_RUNS):
            yield batch
            batch = []
        batch.append(count)
    if batch:
        yield batch


def _read_batch(database: Database, batch: Sequence[RunCount], reading: Reading) -> dict[tuple[int, int], Part]:
    runs = tuple(dict.fromkeys(count.run for count in batch))
    fields = min(count.first_field for count in batch), max(count.last_field for count in batch)
    pages = list(_pages(database, Box(runs, (1, 6), fields)))
    rows = join([index_of_table(page.table, database, reading.config.name) for page in pages])
    rows = rows.take(np.lexsort((rows.field, rows.camcol)))  # however the server ordered and the boxes cut them
    parts = {}
    for count in batch:
        mine = rows.take(np.flatnonzero((rows.run == count.run) & (rows.rerun == count.rerun)))
        if len(mine) != count.n_fields:
            raise ExposureIndexError(
                f"{database.server} counts {count.n_fields} fields of run {count.run} rerun {count.rerun}, and then "
                f"gives {len(mine)}: an answer is cut off, or the table is being changed; run again later"
            )
        of_run = [page for page in pages if count.run in page.box.runs]
        parts[count.run, count.rerun] = reading.new(
            mine,
            key=count.key,
            state=count.state,
            servers=(database.server,),
            path=database.path,
            queries=tuple(page.sql for page in of_run),
            sha256=tuple(page.sha256 for page in of_run),
        )
    return parts


def _pages(database: Database, box: Box) -> Iterator[Page]:
    """All rows of a box, in as many pages as the server makes of it."""
    sql = box.sql(database.columns, database.where)
    content = database.ask(sql)
    if content is not None:
        where = f"{database.server} for runs {box.runs[0]}-{box.runs[-1]}"
        table = read_page(content, database.columns, integers=KEYS, where=where)
        if table.num_rows < database.max_rows:
            yield Page(box, sql, hashlib.sha256(content).hexdigest(), table)
            return
    halves = box.halves()
    if halves is None:
        raise ExposureIndexError(
            f"{database.server} cuts its answer off even for run {box.runs[0]} camcol {box.camcols[0]} field "
            f"{box.fields[0]} alone"
        )
    for half in halves:
        yield from _pages(database, half)


def read_page(page: bytes, columns: Sequence[str], *, integers: Sequence[str], where: str) -> pa.Table:
    """CSV of an SQL page, whose first line may be the name of the result set (`#Table1`).

    Raises
    ------
    ExposureIndexError
        It is not a table with these columns.
    """
    if page.startswith(b"#"):
        page = page.partition(b"\n")[2]
    if page.lstrip()[:3].lower() == b"no ":  # "No objects have been found"
        page = ",".join(columns).encode() + b"\n"
    types = {name: pa.int32() if name in integers else pa.float64() for name in columns}
    try:
        options = pa.csv.ConvertOptions(column_types=types, null_values=["", "null", "NULL"])
        table = pa.csv.read_csv(io.BytesIO(page), convert_options=options)
        if table.num_columns == 0:
            raise KeyError("no columns")
        return table.select(columns)
    except (pa.ArrowInvalid, KeyError) as error:
        raise ExposureIndexError(
            f"{where} is not the table that was asked for ({error}); it begins {first_words(page)!r}"
        ) from error


def index_of_table(table: pa.Table, database: Database, archive: str) -> ExposureIndex:
    """Rows of `Field` as exposures.

    `Field` has no node and inclination. Stripe 82 is the equator, and where a run has another great circle
    its solution is anchored at the field's own RA and Dec.
    """
    if any(table[name].null_count for name in KEYS):
        raise ExposureIndexError(f"{database.server}: a row has no run, camcol, field or quality")
    given = {name: table[name].to_numpy() for name in database.columns}
    columns: dict[str, NDArray[Any]] = {name: given[name] for name in KEYS}
    for ours, theirs in (("mjd", "mjd"), ("psf_fwhm", "psfWidth")):
        columns |= {f"{ours}_{band}": given[f"{theirs}_{band}"] for band in BANDS}
    columns |= {f"sky_{band}": given[f"sky_{band}"] * database.sky_unit_nmgy for band in BANDS}
    if database.status:
        for ours, theirs in (("image_status", "imageStatus"), ("calib_status", "calibStatus")):
            columns |= {f"{ours}_{band}": np.nan_to_num(given[f"{theirs}_{band}"]).astype(np.int32) for band in BANDS}
    columns |= {term: given[f"{term}_r"] for term in "abcdef"}
    index = index_of(np.full(table.num_rows, archive), columns)
    return anchored(index, given["ra"], given["dec"])
