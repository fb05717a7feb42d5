"""What a per-object file holds: the columns of HDF5 schema version 3, their units and meanings.

`docs/format.md` says the same for readers without this package.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Final

SCHEMA_VERSION: Final = 3
MAX_IMAGES: Final = 100_000
MAX_SIZE: Final = 512
"""Largest height and width [px]."""
MAX_BYTES: Final = 2**30
"""Most that one file may be, and open to."""
SMALL_BYTES: Final = 64 * 2**20
"""What any file may open to."""
MAX_EXPANSION: Final = 100
"""More than so many times its own size no file opens to, if that is more than SMALL_BYTES: noise is not compressed so
far."""
UNIT: Final = "nanomaggy"
"""Of the file as a whole."""


class MaskBit(IntFlag):
    """Bits of a thumbnail's mask; the first four are planes of the survey's own fpM file."""

    INTERP = 1
    """Interpolated over (bad column, bleed, cosmic ray)."""
    SATUR = 2
    """Saturated."""
    CR = 4
    """Cosmic ray."""
    GHOST = 8
    """Ghost of a bright star."""
    UNCOVERED = 16
    """Outside the frame; the image is NaN here."""


@dataclass(frozen=True, slots=True)
class Column:
    """One dataset of the file: its type, shape beyond M, unit and meaning."""

    dtype: str
    ndim: int
    unit: str
    description: str


COLUMNS: Final[dict[str, Column]] = {
    "image": Column("<f4", 3, "nanomaggy", "sky-subtracted flux per pixel; NaN where the frame does not cover"),
    "variance": Column("<f4", 3, "nanomaggy2", "variance of each pixel from photon and detector noise"),
    "noise_factor": Column("<f4", 1, "", "variance over that of independent pixels, as summed apertures need it"),
    "mask": Column("|u1", 3, "", "bits: 1 INTERP, 2 SATUR, 4 CR, 8 GHOST, 16 UNCOVERED"),
    "band_id": Column("|u1", 1, "", "1 u, 2 g, 3 r, 4 i, 5 z"),
    "mjd_tai": Column("<f8", 1, "d", "MJD (TAI) of the middle of the exposure at the object's row"),
    "run": Column("<i4", 1, "", "imaging run"),
    "rerun": Column("<i4", 1, "", "processing rerun"),
    "camcol": Column("|u1", 1, "", "camera column, 1 to 6"),
    "field": Column("<i4", 1, "", "field of the run, from the file name"),
    "x_pix": Column("<f8", 1, "pixel", "column of the object in the frame, 0 at the centre of the first pixel"),
    "y_pix": Column("<f8", 1, "pixel", "row of the object in the frame, 0 at the centre of the first pixel"),
    "zeropoint": Column("<f4", 1, "nanomaggy", "flux of one count"),
    "zeropoint_source": Column("|u1", 1, "", "1 frame header (DR8+), 2 tsField (DR7), 3 tsField, corrected by stars"),
    "zp_offset_mag": Column(
        "<f4", 1, "mag", "stars less their standard magnitudes before correction; NaN: not measured"
    ),
    "zp_error_mag": Column("<f4", 1, "mag", "error of zp_offset_mag"),
    "zp_scatter_mag": Column("<f4", 1, "mag", "scatter of the stars"),
    "zp_stars": Column("<i4", 1, "", "number of standard stars on the frame"),
    "zp_flags": Column("|u1", 1, "", "bits: 1 CHECKED, 2 CORRECTED, 4 BEYOND_LIMIT, 8 TOO_FEW_STARS"),
    "psf_fwhm_arcsec": Column("<f4", 1, "arcsec", "effective PSF width"),
    "sky_nmgy_arcsec2": Column("<f4", 1, "nanomaggy/arcsec2", "sky brightness before subtraction"),
    "airmass": Column("<f4", 1, "", "airmass of the field"),
    "quality": Column("|u1", 1, "", "field quality: 3 GOOD, 2 ACCEPTABLE, 1 BAD, 4 MISSING, 5 HOLE, 0 unknown"),
    "coverage": Column("<f4", 1, "", "part of the thumbnail that the frame covers, 0 to 1"),
    "frame_sha256": Column("|S64", 1, "", "sha256 of the frame file as fetched, in hexadecimal"),
}

ATTRIBUTES: Final[dict[str, tuple[str, type]]] = {
    "survey": ("survey", str),
    "object_id": ("object_id", str),
    "ra_deg": ("ra_deg", float),
    "dec_deg": ("dec_deg", float),
    "class": ("class_name", str),
    "confirmation": ("confirmation", str),
    "pixel_scale_arcsec": ("pixel_scale_arcsec", float),
    "wcs": ("wcs_header", str),
    "pipeline_version": ("pipeline_version", int),
}
"""Attributes of the file, with the field of `Sequence` that holds each and its type.

None of them says which dataset version the file is in: an unchanged file is in many, and stays byte for byte the same.
"""
