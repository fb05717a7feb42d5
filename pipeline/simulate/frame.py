"""The DR8+ form: `frame-*.fits.bz2` (calibrated, sky-subtracted) and the run's `photoField` table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.simulate.camera import FIELD_STEP, N_COLS, N_ROWS, PIXEL_ARCSEC, Strip
from pipeline.simulate.conditions import Conditions
from pipeline.simulate.fpc import fill_astrometry, fill_conditions
from pipeline.simulate.headers import field_sky_box, pointing_cards, wcs_cards
from pipeline.simulate.templates import hdu_bytes, header, row_dtype

SKY_BINNING: Final = 8
SKY_SHAPE: Final = (192, 256)
DROPPED_BITS: Final = 14
"""FLOATCOMPRESS keeps 10 binary digits: 14 of the 24 bits of a float32's significand are 0 in real frames."""


@dataclass(frozen=True, slots=True)
class SkyModel:
    """The sky that is subtracted from a strip: knots every 8 pixels, bilinear between, constant outside."""

    knots: NDArray[np.float32]
    """[DN], over the whole strip, so that the rows two fields share have the same sky in both."""

    @classmethod
    def of(cls, strip: Strip, conditions: Conditions) -> SkyModel:
        """Knots in the middle of 8 × 8 pixels."""
        n_knots = int(_knot_position(strip.n_rows)[-1]) + SKY_SHAPE[0]
        row = np.arange(SKY_BINNING / 2, n_knots * SKY_BINNING, SKY_BINNING)[:, None]
        col = np.arange(SKY_BINNING / 2, SKY_SHAPE[1] * SKY_BINNING, SKY_BINNING)[None, :]
        return cls(conditions.sky_dn_at(row, col).astype(np.float32))

    def on_pixels(self, n_rows: int) -> NDArray[np.float64]:
        """Sky [DN] of every pixel of the strip."""
        rows = _lerp(self.knots.astype(float), _knot_position(n_rows))
        return _lerp(rows.T, _knot_position(N_COLS)).T

    def of_field(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """(ALLSKY, XINTERP, YINTERP) of one field."""
        row = _knot_position(N_ROWS, first=index * FIELD_STEP)
        start = max(int(np.floor(row[0])), 0)
        column = _knot_position(N_COLS)
        sky = self.knots[start : start + SKY_SHAPE[0]]
        return sky, column.astype(np.float32), (row - start).astype(np.float32)


def _knot_position(count: int, first: int = 0) -> NDArray[np.float64]:
    """Where the centres of pixels first, first + 1, … lie among the knots: -0.4375, -0.3125, … as in real frames."""
    return (first + np.arange(count) + 0.5) / SKY_BINNING - 0.5


def _lerp(values: NDArray[np.float64], position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate along axis 0, clamped at the ends."""
    position = np.clip(position, 0, values.shape[0] - 1)
    low = np.minimum(np.floor(position).astype(int), values.shape[0] - 2)
    weight = (position - low)[:, None]
    return np.asarray(values[low] * (1 - weight) + values[low + 1] * weight)


def calibrated(dn_RC: NDArray[np.int32], sky_RC: NDArray[np.float64], conditions: Conditions) -> NDArray[np.float32]:
    """Counts → nanomaggies without sky, rounded to 10 binary digits."""
    return keep_ten_digits(((dn_RC - sky_RC) * conditions.column_nmgy_per_dn.astype(float)).astype(np.float32))


def keep_ten_digits(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round every value to 10 binary digits, as the lossy compression of real frames does."""
    bits = image.view(np.uint32)
    rounded = (bits + np.uint32(1 << (DROPPED_BITS - 1))) & np.uint32(0xFFFFFFFF << DROPPED_BITS & 0xFFFFFFFF)
    return rounded.view(np.float32)


def frame_bytes(
    strip: Strip, index: int, conditions: Conditions, image_RC: NDArray[np.float32], sky: SkyModel
) -> bytes:
    """The four HDUs of one field's image [nMgy]: image, calibration vector, sky, astrometry."""
    cards = header(
        "frame",
        0,
        {
            **pointing_cards(strip, index),
            **wcs_cards(strip, index, crpix=(1025.0, 745.0)),
            "NMGY": conditions.nmgy_per_dn,
            "RERUN": str(strip.run.rerun),
        },
    )
    table = np.zeros(1, row_dtype("frame", 2))
    table["ALLSKY"], table["XINTERP"], table["YINTERP"] = sky.of_field(index)
    return b"".join(
        [
            hdu_bytes(cards, image_RC.astype(">f4")),
            hdu_bytes(header("frame", 1), conditions.column_nmgy_per_dn.astype(">f4")),
            hdu_bytes(header("frame", 2), table),
            hdu_bytes(header("frame", 3), _astrometry_row(strip, index, conditions)),
        ]
    )


def _astrometry_row(strip: Strip, index: int, conditions: Conditions) -> NDArray[np.void]:
    row = np.zeros(1, row_dtype("frame", 3))
    row["RUN"], row["RERUN"], row["CAMCOL"] = strip.run.run, str(strip.run.rerun), strip.camcol
    row["FILTER"], row["FIELD"], row["NAXIS"] = strip.band, strip.run.field + index, (N_COLS, N_ROWS)
    row["NODE"], row["INCL"] = strip.astrometry.circle.node_deg, strip.astrometry.circle.incl_deg
    solution = strip.field_astrometry(index)
    for letter in "abcdef":
        row[letter.upper()] = getattr(solution, letter)
    for power in range(4):
        row[f"DROW{power}"], row[f"DCOL{power}"] = solution.d_row[power], solution.d_col[power]
    row["RICUT"] = 100.0
    row["MJD"], row["AIRMASS"] = strip.field_tai_s(index) / 86400.0, conditions.airmass
    return row


def photofield_bytes(strips_5: Sequence[Strip], conditions_5: Sequence[Conditions]) -> bytes:
    """The field table of a run and camcol: a row per field, arrays in ugriz order, A-FF in single precision as real."""
    strip = strips_5[0]
    table = np.zeros(strip.n_fields, row_dtype("photoField", 1))
    for index in range(strip.n_fields):
        _fill_field(table[index : index + 1], strips_5, index, conditions_5)
    primary = header(
        "photoField",
        0,
        {
            "RUN": strip.run.run,
            "NODE": strip.astrometry.circle.node_deg,
            "INCL": strip.astrometry.circle.incl_deg,
            "FIELD0": strip.run.field,
            "NFIELDS": strip.n_fields,
            "CAMCOL": str(strip.camcol),
            "FIELD": str(strip.run.field + strip.n_fields - 1),
            "RERUN": str(strip.run.rerun),
        },
    )
    return hdu_bytes(primary) + hdu_bytes(header("photoField", 1, {"NAXIS2": strip.n_fields}), table)


def _fill_field(
    row: NDArray[np.void], strips_5: Sequence[Strip], index: int, conditions_5: Sequence[Conditions]
) -> None:
    strip, red = strips_5[0], strips_5[2]
    row["RUN"], row["RERUN"], row["CAMCOL"] = strip.run.run, str(strip.run.rerun), strip.camcol
    row["FIELD"], row["IFIELD"], row["SKYVERSION"] = strip.run.field + index, index, 2
    row["QUALITY"], row["SCORE"] = strip.run.quality, 0.8
    fill_astrometry(row, strips_5, index, names={**{x: x.upper() for x in "abcde"}, "f": "FF"})
    fill_conditions(row, conditions_5)
    tai_s = np.array([one.field_tai_s(index) for one in strips_5])
    # The real column TAI is not that of the first row but of the middle of its exposure.
    row["MJD"], row["TAI"] = tai_s / 86400.0, tai_s - strip.exptime_s / 2
    row["REF_TAI"], row["PIXSCALE"] = round(float(tai_s[2])), PIXEL_ARCSEC
    for name in ("SKY", "SKY_PSP", "SKY_FRAMES", "SKY_FRAMES_SUB"):
        row[name] = [one.sky_nmgy_arcsec2 for one in conditions_5]
    row["NMGYPERCOUNT"] = [one.nmgy_per_dn for one in conditions_5]
    row["KTERM"] = [one.ccd.extinction_kk_mag for one in conditions_5]
    row["IMAGE_STATUS"], row["CALIB_STATUS"] = 1, 1
    row["RAMIN"], row["RAMAX"], row["DECMIN"], row["DECMAX"] = field_sky_box(red, index)
    solution = red.field_astrometry(index)
    ra, dec = solution.to_sky(np.array(N_ROWS / 2), np.array(N_COLS / 2))
    row["RA"], row["DEC"] = ra, dec
    # What resolve keeps of a field: half of the overlap with its neighbours off on each side.
    row["MU_START"], row["MU_END"] = solution.a + solution.b * 64, solution.a + solution.b * (64 + FIELD_STEP)
    row["NU_START"], row["NU_END"] = solution.d + solution.f * 64, solution.d + solution.f * (N_COLS - 64)
