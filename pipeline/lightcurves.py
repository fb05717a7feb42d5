"""The light-curve table of a dataset: what its columns are, and how one object's rows are read.

`pipeline.lightcurvefile` writes it. Free of astropy and SEP, so that training machines can read it.
"""

from __future__ import annotations

from enum import IntFlag
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.columns import Meaning, described
from pipeline.errors import DatasetError

if TYPE_CHECKING:
    from astropy.table import Table


class PhotometryFlag(IntFlag):
    """Bits of `flags`: what is wrong, or to be known, and of which fluxes; 0: nothing."""

    MASKED = 1
    """The aperture touches a pixel with INTERP, SATUR, CR or GHOST: no aperture flux, no matched one."""
    UNCOVERED = 2
    """The aperture is partly off the frame: no aperture flux, no matched one."""
    PSF_UNKNOWN = 4
    """The width of the PSF is not known: no fluxes."""
    PSF_LOST = 8
    """More than half of the PSF fit's weight is on pixels that cannot be used: no PSF flux."""
    ZEROPOINT = 16
    """The frame's zero point is beyond the survey's limits (`zp_flags`): fluxes are given, and may be wrong."""
    NO_BACKGROUND = 32
    """A local background was asked for, and too few pixels tell it: no fluxes."""
    EXTENDED = 64
    """The object has more light in this band than a point source's, such as a host's: PSF fluxes follow the seeing."""
    NOT_MATCHED = 128
    """No matched flux: over 1 % of its weight is on bad pixels, the PSF over 2.8 or the image under 12 arcsec wide."""


def _column(name: str, kind: pa.DataType, unit: str, description: str) -> pa.Field:
    return described(name, kind, Meaning(unit, description))


LIGHT_CURVE_SCHEMA: Final = pa.schema(
    [
        _column("object_id", pa.string(), "", "the object, as in the manifest"),
        _column("band", pa.string(), "", "u, g, r, i or z"),
        _column("mjd_tai", pa.float64(), "d", "MJD (TAI) of the middle of the exposure at the object's row"),
        _column("run", pa.int32(), "", "imaging run"),
        _column("camcol", pa.uint8(), "", "camera column, 1 to 6"),
        _column("field", pa.int32(), "", "field of the run"),
        _column(
            "aperture_flux_nmgy",
            pa.float32(),
            "nanomaggy",
            "flux within 3 arcsec, corrected for a point source's light outside; host galaxy included",
        ),
        _column("aperture_error_nmgy", pa.float32(), "nanomaggy", "its error, from the variance"),
        _column(
            "psf_flux_nmgy",
            pa.float32(),
            "nanomaggy",
            "flux of a point source at the object's position, fitted; the part of a host galaxy that it takes follows "
            "the seeing: for objects without one (flags without EXTENDED)",
        ),
        _column("psf_error_nmgy", pa.float32(), "nanomaggy", "its error, from the variance"),
        _column("psf_left", pa.float32(), "", "part of the PSF fit's weight that lies on usable pixels, 0 to 1"),
        _column(
            "matched_flux_nmgy",
            pa.float32(),
            "nanomaggy",
            "flux weighted with a Gaussian of FWHM 2.8 arcsec on the sky before any PSF: all of a point source at the "
            "object's position, and the same part of a host galaxy in each image, so that differences are the object's",
        ),
        _column("matched_error_nmgy", pa.float32(), "nanomaggy", "its error, from the variance"),
        _column("psf_fwhm_arcsec", pa.float32(), "arcsec", "effective PSF width of the frame"),
        _column("zp_offset_mag", pa.float32(), "mag", "stars less their standard magnitudes before correction"),
        _column("zp_error_mag", pa.float32(), "mag", "error of the frame's zero point; in no flux's error"),
        _column(
            "zp_flags", pa.uint8(), "", "bits: 1 CHECKED, 2 CORRECTED, 4 BEYOND_LIMIT, 8 TOO_FEW_STARS; 0: not checked"
        ),
        _column(
            "flags",
            pa.uint8(),
            "",
            "bits: " + ", ".join(f"{flag.value} {flag.name}" for flag in PhotometryFlag),
        ),
    ]
)


def read_light_curve(file: Path, object_id: str) -> pa.Table:
    """One object's rows in time order; only those parts of the file are read that may hold them.

    Raises
    ------
    DatasetError
        The file is missing, is no table of light curves, or does not hold the object.
    """
    try:
        schema = pq.read_schema(file)
        missing = set(LIGHT_CURVE_SCHEMA.names) - set(schema.names)
        this = pc.field("object_id") == object_id
        rows = None if missing else pq.read_table(file, filters=this, page_checksum_verification=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(f"cannot read light curves from {file}: {error}") from error
    if rows is None:
        raise DatasetError(f"{file} is no table of light curves: it lacks {sorted(missing)}; write it anew")
    if not rows.num_rows:
        raise DatasetError(f"{file} holds no light curve of object {object_id!r}: is it of this dataset?")
    return rows


def as_astropy(rows: pa.Table) -> Table:
    """The same as an astropy Table, with units and descriptions."""
    from astropy.table import Column, Table

    table = Table()
    for field in rows.schema:
        notes = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        values = rows[field.name].to_numpy() if not pa.types.is_string(field.type) else rows[field.name].to_pylist()
        unit = notes.get("unit", "").replace("nanomaggy", "nmgy") or None
        table[field.name] = Column(values, unit=unit, description=notes.get("description"))
    return table
