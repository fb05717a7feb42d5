"""The exposure index: every (run, camcol, field) an archive has, when it was taken, how good it is, where it lies.

Sources: SkyServer table `Field` (https://skyserver.sdss.org/stripe82/), DR8+ photoField tables and DR7
tsField tables (https://data.sdss.org/datamodel/, https://classic.sdss.org/dr7/dm/flatFiles/tsField.html).

Shapes: N exposures; 5 bands in the order u g r i z.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
from astropy.io import fits
from numpy.typing import NDArray

from pipeline.archive import Archive
from pipeline.bands import BANDS
from pipeline.errors import ArchiveError, ExposureIndexError, FrameError
from pipeline.fitsfile import open_fits
from pipeline.naming import photofield_path, tsfield_path
from pipeline.survey import PhotoFieldIndex, SkyServerIndex, SurveyConfig, TsFieldIndex
from pipeline.transfer import SERVER_LIMIT, first_words

R: Final = BANDS.index("r")
STRIPE82_NODE_DEG: Final = 95.0
STRIPE82_INCL_DEG: Final = 0.0
"""SkyServer's `Field` has no node; Stripe 82 is the equator, so that mu = RA and nu = Dec."""
MAX_SQL_ROWS: Final = 100_000
"""SkyServer stops here without a word (DR7 limit), so a page this long is taken as cut off."""

_KEYS: Final = ("run", "rerun", "camcol", "field", "quality")
_SQL_COLUMNS: Final = (
    *_KEYS,
    *(f"mjd_{band}" for band in BANDS),
    *(f"psfWidth_{band}" for band in BANDS),
    *(f"{term}_r" for term in "abcdef"),
)


@dataclass(frozen=True, slots=True)
class ExposureIndex:
    """One entry per (archive, run, rerun, camcol, field), as columns of equal length N."""

    archive: NDArray[np.str_]
    run: NDArray[np.int32]
    rerun: NDArray[np.int32]
    camcol: NDArray[np.int32]
    field: NDArray[np.int32]
    quality: NDArray[np.int32]
    """3 GOOD, 2 ACCEPTABLE, 1 BAD, 4 MISSING, 5 HOLE, 0 unknown."""
    mjd_tai_N5: NDArray[np.float64]
    """MJD (TAI) at which row 0 was read."""
    psf_fwhm_N5: NDArray[np.float64]
    """Effective PSF width [arcsec]; NaN or ≤ 0 where it was not measured."""
    node_deg: NDArray[np.float64]
    incl_deg: NDArray[np.float64]
    mu_N3: NDArray[np.float64]
    """(a, b, c) [deg, deg/px, deg/px] in r: mu = a + b row + c column, the first pixel's centre at 0.5."""
    nu_N3: NDArray[np.float64]
    """(d, e, f): nu = d + e row + f column."""

    def __len__(self) -> int:
        return len(self.run)

    def take(self, indices: NDArray[np.intp]) -> ExposureIndex:
        """The entries at `indices`, in their order."""
        return ExposureIndex(*(getattr(self, column.name)[indices] for column in fields(self)))


def concatenate(parts: Sequence[ExposureIndex]) -> ExposureIndex:
    """All entries of `parts`; of equal ones (archive, run, rerun, camcol, field) the first."""
    names = [column.name for column in fields(ExposureIndex)]
    whole = ExposureIndex(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
    keys = np.rec.fromarrays([whole.archive, whole.run, whole.rerun, whole.camcol, whole.field])
    _, first = np.unique(keys, return_index=True)
    return whole.take(np.sort(first))


def build_index(survey: SurveyConfig, archive: Archive) -> ExposureIndex:
    """Read all index sources of a survey.

    Raises
    ------
    ExposureIndexError
        A source does not answer, or its answer is not what it must be, or there is no exposure at all.
    """
    parts = []
    for source in survey.index:
        try:
            match source:
                case SkyServerIndex():
                    parts += _from_skyserver(source, archive, source.first_run, source.last_run)
                case PhotoFieldIndex():
                    sas_root = survey.archive(source.archive).sas_root
                    parts += [
                        _from_photofield(source, archive, photofield_path(run, source.rerun, camcol, sas_root=sas_root))
                        for run in source.runs
                        for camcol in source.camcols
                    ]
                case TsFieldIndex():
                    parts += [_from_tsfield(source, archive, *key) for key in source.fields]
        except ArchiveError as error:
            raise ExposureIndexError(f"exposure index of archive {source.archive}: {error}") from error
    if not sum(map(len, parts)):
        raise ExposureIndexError(f"survey {survey.name}: the exposure index is empty; check its [[index]] sources")
    return concatenate(parts)


# ── SkyServer ────────────────────────────────────────────────────────────────────────────────────


def _from_skyserver(source: SkyServerIndex, archive: Archive, first: int, last: int) -> list[ExposureIndex]:
    """Fields of runs `first` to `last`; where that is more than the server gives at once, in halves."""
    page = _ask_skyserver(source, archive, first, last)
    table = None if page is None else _read_sql_page(page, f"{source.url} for runs {first}-{last}")
    if table is not None and table.num_rows < MAX_SQL_ROWS:
        return [_index_of_table(table, source.archive)]
    if first == last:
        raise ExposureIndexError(f"{source.url} gives run {first} only in part: it has more fields than one answer may")
    middle = (first + last) // 2
    return _from_skyserver(source, archive, first, middle) + _from_skyserver(source, archive, middle + 1, last)


def _ask_skyserver(source: SkyServerIndex, archive: Archive, first: int, last: int) -> bytes | None:
    """One answer as it came; None where the server says that it would be too long."""
    sql = f"SELECT {','.join(_SQL_COLUMNS)} FROM Field WHERE run BETWEEN {first} AND {last}"  # noqa: S608 (integers)
    name = f"index/{source.archive}/fields-{first:04d}-{last:04d}.csv"
    try:
        page = archive.fetch_url(source.url, name, {"cmd": sql, "format": "csv"}, refresh=True, check=_not_a_table)
    except ArchiveError as error:
        if SERVER_LIMIT in str(error):
            return None
        raise
    content = page.path.read_bytes()
    return None if SERVER_LIMIT.encode() in content else content


def _not_a_table(head: bytes) -> str:
    """Check of a download: an outage or error page instead of a table."""
    if SERVER_LIMIT.encode() in head:
        return SERVER_LIMIT
    return f"a web page: {first_words(head)!r}" if head.lstrip()[:1] == b"<" else ""


def _read_sql_page(page: bytes, where: str) -> pa.Table:
    """CSV of SkyServer, whose first line may be the name of the result set (`#Table1`)."""
    if page.startswith(b"#"):
        page = page.partition(b"\n")[2]
    if page.lstrip()[:3].lower() == b"no ":  # "No objects have been found"
        page = ",".join(_SQL_COLUMNS).encode() + b"\n"
    types = {name: pa.int32() if name in _KEYS else pa.float64() for name in _SQL_COLUMNS}
    try:
        options = pa.csv.ConvertOptions(column_types=types, null_values=["", "null", "NULL"])
        table = pa.csv.read_csv(io.BytesIO(page), convert_options=options)
        if table.num_columns == 0:
            raise KeyError("no columns")
        return table.select(_SQL_COLUMNS)
    except (pa.ArrowInvalid, KeyError) as error:
        raise ExposureIndexError(
            f"{where} is not the table that was asked for ({error}); it begins {first_words(page)!r}"
        ) from error


def _index_of_table(table: pa.Table, archive: str) -> ExposureIndex:
    if any(table[name].null_count for name in _KEYS):
        raise ExposureIndexError(f"exposure index of archive {archive}: a row has no run, camcol, field or quality")
    n_rows = table.num_rows
    columns = {name: table[name].to_numpy() for name in _SQL_COLUMNS}
    return ExposureIndex(
        archive=np.full(n_rows, archive),
        **{name: columns[name] for name in _KEYS},
        mjd_tai_N5=np.stack([columns[f"mjd_{band}"] for band in BANDS], axis=1),
        psf_fwhm_N5=np.stack([columns[f"psfWidth_{band}"] for band in BANDS], axis=1),
        node_deg=np.full(n_rows, STRIPE82_NODE_DEG),
        incl_deg=np.full(n_rows, STRIPE82_INCL_DEG),
        mu_N3=np.stack([columns[f"{term}_r"] for term in "abc"], axis=1),
        nu_N3=np.stack([columns[f"{term}_r"] for term in "def"], axis=1),
    )


# ── FITS tables ──────────────────────────────────────────────────────────────────────────────────


def _from_photofield(source: PhotoFieldIndex, archive: Archive, path: str) -> ExposureIndex:
    """All fields of one run and camcol, from its DR8+ photoField table."""
    with _fetched_fits(archive, source.archive, path, "a photoField table") as hdus:
        header, rows = hdus[0].header, hdus[1].data
        keys: dict[str, NDArray[Any]] = {name: np.asarray(rows[name]).astype(np.int32) for name in _KEYS}
        return ExposureIndex(
            archive=np.full(len(rows), source.archive),
            **keys,
            **_common_columns(header, rows, f_name="ff"),
        )


def _from_tsfield(
    source: TsFieldIndex, archive: Archive, run: int, rerun: int, camcol: int, field: int
) -> ExposureIndex:
    """One field, from its DR7 tsField table."""
    path = tsfield_path(run, rerun, camcol, field)
    with _fetched_fits(archive, source.archive, path, "the tsField table of that field") as hdus:
        header, rows = hdus[0].header, hdus[1].data
        found = (int(header["RUN"]), int(header["RERUN"]), int(header["CAMCOL"]), int(rows["field"][0]))
        if found != (run, rerun, camcol, field):
            raise ValueError(f"it says run, rerun, camcol, field = {found}")
        values = zip(_KEYS, (*found, rows["quality"][0]), strict=True)
        keys: dict[str, NDArray[Any]] = {name: np.array([value], dtype=np.int32) for name, value in values}
        return ExposureIndex(
            archive=np.array([source.archive]),
            **keys,
            **_common_columns(header, rows, f_name="f"),
        )


def _common_columns(header: fits.Header, rows: fits.FITS_rec, *, f_name: str) -> dict[str, NDArray[Any]]:
    """What photoField and tsField spell alike (astropy's column names ignore case), in r where it depends on the band.

    NODE and INCL are those of the table's own header: the ones that its a to f were fitted with.
    """

    n_rows = len(rows)

    def column(name: str) -> NDArray[np.float64]:
        return np.asarray(rows[name], dtype=np.float64).reshape(n_rows, len(BANDS))

    return {
        "mjd_tai_N5": column("mjd"),
        "psf_fwhm_N5": column("psf_width"),
        "node_deg": np.full(n_rows, float(header["NODE"])),
        "incl_deg": np.full(n_rows, float(header["INCL"])),
        "mu_N3": np.stack([column(term)[:, R] for term in "abc"], axis=1),
        "nu_N3": np.stack([column(term)[:, R] for term in ("d", "e", f_name)], axis=1),
    }


@contextmanager
def _fetched_fits(archive: Archive, archive_name: str, path: str, what: str) -> Iterator[fits.HDUList]:
    """The HDUs of an archive's file; one that turns out not to be `what` is dropped from the cache."""
    file = archive.fetch(archive_name, path).path
    try:
        with open_fits(file, what) as hdus:
            yield hdus
    except FrameError as error:
        archive.discard(archive_name, path)
        raise ExposureIndexError(f"{path}: {error}; run again to fetch it anew") from error
