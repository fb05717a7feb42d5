"""The DR7 form: `fpC-*.fit.gz` (raw counts) and its calibration table `tsField-*.fit`."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.bands import BANDS
from pipeline.simulate.camera import PIXEL_ARCSEC, Strip
from pipeline.simulate.conditions import Conditions
from pipeline.simulate.headers import pointing_cards, wcs_cards
from pipeline.simulate.templates import hdu_bytes, header, row_dtype

SOFTBIAS: Final = 1000
GZIP_LEVEL: Final = 2
"""Noise does not compress: higher levels take five times as long for 4 % less."""


def fpc_bytes(strip: Strip, index: int, conditions: Conditions, dn_RC: NDArray[np.int32]) -> bytes:
    """One field's image: counts plus SOFTBIAS as unsigned 16-bit, not sky-subtracted, no FIELD card."""
    cards = header(
        "fpC",
        0,
        {
            **pointing_cards(strip, index),
            **wcs_cards(strip, index, crpix=(1024.5, 744.5), swapped=strip.run.swapped_axes),
            "FLUX20": 10.0 / conditions.nmgy_per_dn,
            "SKY": round(conditions.sky_dn, 2),
        },
    )
    unsigned = np.clip(dn_RC + SOFTBIAS, 0, 65535)
    return hdu_bytes(cards, (unsigned - 32768).astype(">i2"))


def gzipped(content: bytes) -> bytes:
    """gzip without a date or a name, so that the same content gives the same bytes."""
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def tsfield_bytes(strips_5: Sequence[Strip], index: int, conditions_5: Sequence[Conditions]) -> bytes:
    """The field's calibration table: one row, arrays in ugriz order. Columns that no reader of images needs are 0."""
    strip = strips_5[0]
    field = strip.run.field + index
    cards = header(
        "tsField",
        0,
        {
            "RUN": strip.run.run,
            "CAMCOL": strip.camcol,
            "RERUN": strip.run.rerun,
            "FIELD0": field,
            "NODE": strip.astrometry.circle.node_deg,
            "INCL": strip.astrometry.circle.incl_deg,
        },
    )
    row = np.zeros(1, row_dtype("tsField", 1))
    row["field"], row["quality"] = field, strip.run.quality
    fill_astrometry(row, strips_5, index, names=dict(zip("abcdef", "abcdef", strict=True)))
    fill_conditions(row, conditions_5)
    row["mjd"] = [one.field_tai_s(index) / 86400.0 for one in strips_5]
    row["aa"] = [one.aa_mag for one in conditions_5]
    row["kk"] = [one.ccd.extinction_kk_mag for one in conditions_5]
    for name in ("sky", "sky_psp", "sky_frames", "sky_frames_sub"):
        row[name] = [1e-9 * one.sky_nmgy_arcsec2 for one in conditions_5]
    row["badMask"], row["acceptableMask"], row["goodMask"] = 0, 2, 5
    return hdu_bytes(cards) + hdu_bytes(header("tsField", 1), row)


def fill_astrometry(row: NDArray[np.void], strips_5: Sequence[Strip], index: int, names: dict[str, str]) -> None:
    """Write a-f, dRow0-3, dCol0-3 and riCut; colour terms stay 0, the simulated sky has no refraction."""
    solutions = [strip.field_astrometry(index) for strip in strips_5]
    columns = {name.lower(): name for name in row.dtype.names or ()}
    for letter, name in names.items():
        row[name] = [getattr(solution, letter) for solution in solutions]
    for power in range(4):
        row[columns[f"drow{power}"]] = [solution.d_row[power] for solution in solutions]
        row[columns[f"dcol{power}"]] = [solution.d_col[power] for solution in solutions]
    row[columns["ricut"]] = [3.0, 1.5, 100.0, 100.0, 100.0]


def fill_conditions(row: NDArray[np.void], conditions_5: Sequence[Conditions]) -> None:
    """Write what tsField and photoField share: seeing, airmass, gain, dark variance, saturation."""
    columns = {name.lower(): name for name in row.dtype.names or ()}

    def put(name: str, values: list[float]) -> None:
        row[columns[name]] = values

    psfs = [one.psf for one in conditions_5]
    put("airmass", [one.airmass for one in conditions_5])
    put("gain", [one.ccd.gain_e_per_dn for one in conditions_5])
    put("dark_variance", [one.ccd.dark_variance_dn2 for one in conditions_5])
    put("saturation_level", [one.ccd.saturation_dn for one in conditions_5])
    put("psf_width", [psf.width_arcsec for psf in psfs])
    put("neff_psf", [psf.neff_px for psf in psfs])
    put("psf_sigma1", [PIXEL_ARCSEC * psf.sigma1_px for psf in psfs])
    put("psf_sigma2", [PIXEL_ARCSEC * psf.sigma2_px for psf in psfs])
    put("psf_b", [psf.wing for psf in psfs])
    put("psf_sigma1_2g", [psf.sigma1_px for psf in psfs])
    put("psf_sigma2_2g", [psf.sigma2_px for psf in psfs])
    put("psf_b_2g", [psf.wing for psf in psfs])
    put("psfcounts", [psf.area_px for psf in psfs])
    put("psf_psfcounts", [-9999.0] * len(BANDS))
    put("psf_nstar", [30] * len(BANDS))
