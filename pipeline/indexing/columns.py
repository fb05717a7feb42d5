"""The exposure index as a flat table: the columns of its Parquet file, and of an index file of one's own.

docs/index.md explains them to people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.bands import BANDS
from pipeline.exposures import ExposureIndex

NMGY_PER_MAGGY: Final = 1e9
STRIPE82_NODE_DEG: Final = 95.0
STRIPE82_INCL_DEG: Final = 0.0
"""Great circle of Stripe 82, the equator: mu = RA and nu = Dec."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the flat table."""

    type: pa.DataType
    unit: str = ""
    default: float | None = None
    """Value where an index file lacks the column; None: it must be there."""


_PER_BAND: Final[Mapping[str, Column]] = {
    "mjd": Column(pa.float64(), "d (TAI)"),
    "psf_fwhm": Column(pa.float64(), "arcsec"),
    "sky": Column(pa.float64(), "nMgy/arcsec2", np.nan),
    "image_status": Column(pa.int32(), "", 0),
    "calib_status": Column(pa.int32(), "", 0),
}
COLUMNS: Final[Mapping[str, Column]] = {
    "run": Column(pa.int32()),
    "rerun": Column(pa.int32()),
    "camcol": Column(pa.int32()),
    "field": Column(pa.int32()),
    "quality": Column(pa.int32(), "", 0),
    **{f"{name}_{band}": column for name, column in _PER_BAND.items() for band in BANDS},
    "node": Column(pa.float64(), "deg", STRIPE82_NODE_DEG),
    "incl": Column(pa.float64(), "deg", STRIPE82_INCL_DEG),
    **{term: Column(pa.float64(), "deg" if term in "ad" else "deg/px") for term in "abcdef"},
}
ARCHIVE: Final = "archive"
SCHEMA: Final = pa.schema(
    [pa.field(ARCHIVE, pa.string(), nullable=False)]
    + [pa.field(name, column.type, nullable=False) for name, column in COLUMNS.items()]
)


def flat(index: ExposureIndex) -> pa.Table:
    """The index as a table of `SCHEMA`."""
    names, codes = np.unique(index.archive, return_inverse=True)
    columns: dict[str, Any] = {ARCHIVE: pa.DictionaryArray.from_arrays(codes.astype(np.int32), names.tolist())}
    columns |= {name: getattr(index, name) for name in ("run", "rerun", "camcol", "field", "quality")}
    for name, values_N5 in zip(_PER_BAND, _banded(index), strict=True):
        columns |= {f"{name}_{band}": values_N5[:, n] for n, band in enumerate(BANDS)}
    columns |= {"node": index.node_deg, "incl": index.incl_deg}
    for terms, values_N3 in (("abc", index.mu_N3), ("def", index.nu_N3)):
        columns |= {term: values_N3[:, n] for n, term in enumerate(terms)}
    columns[ARCHIVE] = columns[ARCHIVE].cast(pa.string())
    arrays = [pa.array(np.ascontiguousarray(columns[name]), SCHEMA.field(name).type) for name in COLUMNS]
    return pa.Table.from_arrays([columns[ARCHIVE], *arrays], schema=SCHEMA)


def _banded(index: ExposureIndex) -> tuple[NDArray[Any], ...]:
    """The columns of `_PER_BAND`, in its order."""
    return (index.mjd_tai_N5, index.psf_fwhm_N5, index.sky_N5, index.image_status_N5, index.calib_status_N5)


def index_of(archive: NDArray[np.str_], columns: Mapping[str, NDArray[Any]]) -> ExposureIndex:
    """The index of flat columns; of those with a default any may be absent."""
    count = len(archive)

    def column(name: str) -> NDArray[Any]:
        kind = COLUMNS[name]
        dtype = kind.type.to_pandas_dtype()
        return np.asarray(columns[name], dtype) if name in columns else np.full(count, kind.default, dtype)

    def stacked(names: list[str]) -> NDArray[Any]:
        return np.stack([column(name) for name in names], axis=1)

    mjd, psf_fwhm, sky, image_status, calib_status = (
        stacked([f"{name}_{band}" for band in BANDS]) for name in _PER_BAND
    )
    return ExposureIndex(
        archive=archive,
        run=column("run"),
        rerun=column("rerun"),
        camcol=column("camcol"),
        field=column("field"),
        quality=column("quality"),
        mjd_tai_N5=mjd,
        psf_fwhm_N5=psf_fwhm,
        sky_N5=known_sky(sky),
        image_status_N5=known_bits(image_status),
        calib_status_N5=known_bits(calib_status),
        node_deg=column("node"),
        incl_deg=column("incl"),
        mu_N3=stacked(list("abc")),
        nu_N3=stacked(list("def")),
    )


def known_sky(sky_N5: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sky with NaN where the survey writes 0 or -9999 for a sky it did not measure."""
    return np.where(sky_N5 > 0, sky_N5, np.nan)


def known_bits(status_N5: NDArray[np.int32]) -> NDArray[np.int32]:
    """Bit masks with 0, no bit, where the survey writes -9999."""
    return np.where(status_N5 > 0, status_N5, 0).astype(np.int32)


def archive_column(table: pa.Table) -> NDArray[np.str_]:
    """The names of the archives, row by row."""
    encoded = table[ARCHIVE].combine_chunks().dictionary_encode()
    names = np.array(encoded.dictionary.to_pylist(), dtype=np.str_)
    return names[encoded.indices.to_numpy()] if len(names) else names
