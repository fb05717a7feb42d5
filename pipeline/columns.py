"""What each column of the dataset's tables means, in what unit: one place for schema metadata, Croissant and cards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from pipeline.naming import FRAMES_FILE, MANIFEST_FILE, SKIPS_FILE


@dataclass(frozen=True, slots=True)
class Meaning:
    """Unit ('' for none) and description of one column."""

    unit: str
    description: str

    def __str__(self) -> str:
        return f"{self.description} [{self.unit}]" if self.unit else self.description


def _none(description: str) -> Meaning:
    return Meaning("", description)


_MANIFEST: Final = {
    "object_id": _none("id of the object in the survey's list"),
    "class_name": _none("AGN, SNIa, Variable or SNOther; empty where the object has no class"),
    "confirmation": _none("spectroscopic or photometric: how the class is known"),
    "ra_deg": Meaning("deg", "right ascension, ICRS"),
    "dec_deg": Meaning("deg", "declination, ICRS"),
    "fold": _none("fold of the object, from 0; -1: has no class, takes no part in splits"),
    "group": _none("id of the first of the objects that lie so near one another that they share a fold"),
    "step": _none(
        "step of training that the object serves where it does not test: train, fine-tune, aside (duplicate of an "
        "object with a spectrum), or empty: takes no part"
    ),
    "file": _none("the object's HDF5 file, below the dataset's folder"),
    "sha256": _none("sha256 of that file, in hexadecimal"),
    "n_images": _none("images of the object, all bands"),
    **{f"n_{band}": _none(f"images in {band}") for band in "ugriz"},
    "mjd_first": Meaning("d", "MJD (TAI) of the first image"),
    "mjd_last": Meaning("d", "MJD (TAI) of the last image"),
    "masked_fraction": _none("part of the covered pixels with any of INTERP, SATUR, CR, GHOST"),
    "psf_fwhm_arcsec": Meaning("arcsec", "effective PSF width, median over the images"),
    "coverage": _none("part of the thumbnails that the frames cover, mean over the images"),
    "cell": _none("unit of work that made the object"),
}
_FRAMES: Final = {
    "archive": _none("archive of the survey description that the frame is from"),
    "run": _none("imaging run"),
    "rerun": _none("processing rerun"),
    "camcol": _none("camera column, 1 to 6"),
    "field": _none("field of the run, from the file name"),
    "band": _none("u, g, r, i or z"),
    "path": _none("path of the frame below the archive's base URL"),
    "url": _none("address of the frame at the archive's first server"),
    "sha256": _none("sha256 of the frame file as fetched, in hexadecimal"),
    "calibration_sha256": _none("sha256 of the table that calibrates the frame; empty where there is none"),
    "mask_sha256": _none("sha256 of the frame's fpM mask planes; empty where there are none"),
    "bytes": Meaning("byte", "size of the frame file as fetched"),
    "n_thumbnails": _none("thumbnails cut from the frame"),
    "n_partly_covered": _none("of these, partly off the frame"),
    "psf_fwhm_arcsec": Meaning("arcsec", "effective PSF width"),
    "sky_nmgy_arcsec2": Meaning("nanomaggy/arcsec2", "sky brightness before subtraction"),
    "mjd_tai": Meaning("d", "MJD (TAI) of the middle of the frame's exposure"),
    "quality": _none("field quality: 3 GOOD, 2 ACCEPTABLE, 1 BAD, 4 MISSING, 5 HOLE, 0 unknown"),
    "zp_offset_mag": Meaning("mag", "stars less their standard magnitudes before correction; NaN: not measured"),
    "zp_error_mag": Meaning("mag", "error of zp_offset_mag"),
    "zp_scatter_mag": Meaning("mag", "scatter of the stars"),
    "zp_stars": _none("number of standard stars on the frame"),
    "zp_flags": _none("bits: 1 CHECKED, 2 CORRECTED, 4 BEYOND_LIMIT, 8 TOO_FEW_STARS"),
    "noise_ratio": _none("noise between pixels over that of the variance, against other images of the same objects"),
    "sky_offset": _none("level of the sky against other images of the same objects, in standard deviations of a pixel"),
    "bright_excess": _none("part of pixels 5 sigma above the sky, less that of other images of the same objects"),
    "masked_excess": _none("part of covered pixels that masks name, less that of other images of the same objects"),
    "first_object": _none("object that was cut from the frame, the first by id; empty where none was"),
}
_SKIPS: Final = {
    "reason": _none("why it was left out, one of the words of docs/format.md"),
    "object_id": _none("the object; empty where a frame was left out"),
    "frame": _none("the frame as run/rerun/camcol/field/band; empty where an object was left out"),
    "detail": _none("what was found, in words"),
}

MEANINGS: Final[dict[str, dict[str, Meaning]]] = {MANIFEST_FILE: _MANIFEST, FRAMES_FILE: _FRAMES, SKIPS_FILE: _SKIPS}
"""By table and column."""


def described(name: str, kind: pa.DataType, meaning: Meaning) -> pa.Field:
    """An Arrow field that carries unit and description into the Parquet file."""
    return pa.field(name, kind, metadata={"unit": meaning.unit, "description": meaning.description})


def with_meanings(schema: pa.Schema, file: str) -> pa.Schema:
    """The columns of one of the tables, each with its unit and description."""
    return pa.schema([described(column.name, column.type, MEANINGS[file][column.name]) for column in schema])
