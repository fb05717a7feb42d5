"""From counts to nanomaggies: field calibration tables and detector noise.

Sources: photoField and tsField data models
(https://data.sdss.org/datamodel/files/BOSS_PHOTOOBJ/RERUN/RUN/photoField.html,
https://classic.sdss.org/dr7/dm/flatFiles/tsField.html) and the DR7 flux calibration
(https://classic.sdss.org/dr7/algorithms/fluxcal.html).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from pipeline.astrometry import AsTrans
from pipeline.bands import BANDS
from pipeline.errors import FrameError
from pipeline.fitsfile import open_fits
from pipeline.frame import FieldCalibration
from pipeline.naming import FrameId

EXPOSURE_S = 53.907456
"""Effective exposure of a drift scan; DR7 zero points refer to counts per this many seconds."""

_LARGEST: Final = float(np.finfo(np.float32).max)
_ABOVE_ZERO: Final = float(np.finfo(np.float32).tiny)
_LIMITS: Final = {
    "gain_e_per_count": ("gain", _ABOVE_ZERO, _LARGEST),
    "dark_variance_counts2": ("dark_variance", 0.0, _LARGEST),
    "nmgy_per_count": ("zero point (nmgypercount, or aa and kk)", _ABOVE_ZERO, _LARGEST),
    "psf_fwhm_arcsec": ("psf_width", _ABOVE_ZERO, _LARGEST),
    "sky_nmgy_arcsec2": ("sky", 0.0, _LARGEST),
    "airmass": ("airmass", 0.0, _LARGEST),
    "quality": ("quality", 0, 255),
    "mjd_tai_row0": ("mjd", -_LARGEST, _LARGEST),
}
"""Column, least and largest value of each field that a build can use; all must fit the types of the dataset."""


def read_calibration(path: Path, frame: FrameId) -> FieldCalibration:
    """Read the row of `frame` from its photoField (DR8+) or tsField (DR7) table.

    Raises
    ------
    FrameError
        The table is unreadable, belongs to another run, camcol or rerun, or lacks the field or a column.
    """
    with open_fits(path, f"a readable calibration table of frame {frame}") as hdus:
        if frame.layout == "sas-dr8":
            calibration = _photofield(hdus[1].table, frame, path)
        else:
            _check_header(hdus[0].header, frame, path)
            calibration = _tsfield(hdus[0].header, hdus[1].table, frame, path)
        _check_values(calibration, frame, path)
        return calibration


def _check_values(calibration: FieldCalibration, frame: FrameId, path: Path) -> None:
    """Refuse what cannot be measured: the survey writes -9999 or 0 where it has no value."""
    for name, (column, least, most) in _LIMITS.items():
        value = getattr(calibration, name)
        if not least <= value <= most:  # NaN is refused too
            raise FrameError(f"{path.name}: {column} of frame {frame} is {value}, expected {least:.3g} to {most:.3g}")


def _check_header(header: fits.Header, frame: FrameId, path: Path) -> None:
    found = (header["RUN"], header["CAMCOL"], header["RERUN"])
    if tuple(int(value) for value in found) != (frame.run, frame.camcol, frame.rerun):
        raise FrameError(f"{path.name} says run, camcol, rerun {found}, its name says {frame}")


def _photofield(table: NDArray[np.void], frame: FrameId, path: Path) -> FieldCalibration:
    match = (
        (table["run"] == frame.run)
        & (table["camcol"] == frame.camcol)
        & (table["field"] == frame.field)
        & (np.char.strip(table["rerun"]) == str(frame.rerun).encode())
    )
    row = _only_row(table, match, frame, path)
    band = BANDS.index(frame.band)
    return FieldCalibration(
        gain_e_per_count=float(row["gain"][band]),
        dark_variance_counts2=float(row["dark_variance"][band]),
        nmgy_per_count=float(row["nmgypercount"][band]),
        psf_fwhm_arcsec=float(row["psf_width"][band]),
        sky_nmgy_arcsec2=float(row["sky"][band]),
        airmass=float(row["airmass"][band]),
        quality=int(row["quality"]),
        mjd_tai_row0=float(row["mjd"][band]),
    )


def _tsfield(header: fits.Header, table: NDArray[np.void], frame: FrameId, path: Path) -> FieldCalibration:
    row = _only_row(table, table["field"] == frame.field, frame, path)
    band = BANDS.index(frame.band)
    airmass = float(row["airmass"][band])
    # maggies = counts / exptime * 10^(0.4 (aa + kk * airmass)); aa is negative, so this is a small number.
    exponent = 0.4 * (float(row["aa"][band]) + float(row["kk"][band]) * airmass)
    return FieldCalibration(
        gain_e_per_count=float(row["gain"][band]),
        dark_variance_counts2=float(row["dark_variance"][band]),
        nmgy_per_count=1e9 * 10**exponent / EXPOSURE_S,
        psf_fwhm_arcsec=float(row["psf_width"][band]),
        sky_nmgy_arcsec2=1e9 * float(row["sky"][band]),
        airmass=airmass,
        quality=int(row["quality"]),
        mjd_tai_row0=float(row["mjd"][band]),
        astrometry=AsTrans.of_table(
            float(header["NODE"]), float(header["INCL"]), lambda name: float(row[name.lower()][band])
        ),
    )


def _only_row(table: NDArray[np.void], match: NDArray[np.bool_], frame: FrameId, path: Path) -> np.void:
    found = np.flatnonzero(match)
    if len(found) != 1:
        raise FrameError(f"{path.name} has {len(found)} rows of field {frame}, expected one")
    row: np.void = table[int(found[0])]
    return row


def variance_nmgy2(
    counts_YX: NDArray[np.float32], nmgy_per_count: NDArray[np.float32] | float, calibration: FieldCalibration
) -> NDArray[np.float32]:
    """Variance of each pixel from its counts, sky included and bias removed [nMgy²].

    Source: "calculating errors" in https://data.sdss.org/datamodel/files/BOSS_PHOTOOBJ/frames/RERUN/RUN/CAMCOL/frame.html
    """
    electrons_YX = np.maximum(counts_YX, 0)
    noise_YX = electrons_YX / np.float32(calibration.gain_e_per_count) + np.float32(calibration.dark_variance_counts2)
    return np.asarray(noise_YX * np.square(nmgy_per_count, dtype=np.float32), dtype=np.float32)
