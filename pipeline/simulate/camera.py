"""Where and when each pixel of a drift scan looks.

A *strip* is what one CCD records of one run while the patch passes: consecutive fields, each 1361
rows on from the last and 1489 rows high, so that neighbours share 128 rows. Row and column
coordinates have their origin at the outer corner of the first pixel: the centre of pixel (0, 0) is
at row 0.5, column 0.5. Great-circle coordinates are linear in them,

    mu = a + b row' + c col',    nu = d + e row' + f col'        [deg],

where row', col' are row, col plus a cubic in the column, the camera's optical distortion
(photoField data model, https://data.sdss.org/datamodel/). On Stripe 82 columns run north and rows
run east: a rotation of the sky, not a mirror image.

Written apart from `pipeline.astrometry` on purpose: what reads the archive is tested against what wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.polynomial.polynomial import polyval
from numpy.typing import NDArray

from pipeline.bands import BANDS, FRAME_MINUS_FIELD, READOUT_ORDER, Band
from pipeline.naming import FrameId
from pipeline.simulate.config import RunConfig, SimulationConfig

Floats = NDArray[np.float64]

N_COLS: Final = 2048
N_ROWS: Final = 1489
FIELD_STEP: Final = 1361
PIXEL_DEG: Final = 1.1e-4
PIXEL_ARCSEC: Final = 0.396
ROW_CLOCK_US: Final = 26322
"""Card C_OBS: microseconds per row; 26319 in run 94."""
EXPTIME_S: Final = 53.907456
"""A source needs this long to drift over the 2048 rows of a CCD; 53.901312 in run 94."""
BAND_DELAY_S: Final = 71.65
"""From one CCD of a column to the next, in the order of READOUT_ORDER."""
SIDEREAL_DEG_PER_S: Final = 15.0411 / 3600


Cubic = tuple[float, float, float, float]
NO_DISTORTION: Final[Cubic] = (0.0, 0.0, 0.0, 0.0)
ROW_DISTORTION: Final[dict[Band, Cubic]] = {
    "u": (6.998e-3, -3.06639e-5, 2.86767e-8, -7.22948e-12),
    "g": (-3.588e-2, 1.28921e-4, -1.07226e-7, 2.45512e-11),
    "r": (1.251e-2, -5.84694e-5, 5.98823e-8, -1.69861e-11),
    "i": (-2.200e-2, 7.33883e-5, -5.60841e-8, 1.10967e-11),
    "z": (-3.898e-2, 1.47456e-4, -1.33712e-7, 3.41274e-11),
}
COL_DISTORTION: Final[dict[Band, Cubic]] = {
    "u": (4.222e-3, 4.79051e-5, -1.10430e-7, 4.76786e-11),
    "g": (-5.890e-2, 3.20811e-4, -3.82719e-7, 1.23638e-10),
    "r": (-9.382e-2, 4.88692e-4, -5.64334e-7, 1.78238e-10),
    "i": (-8.923e-2, 3.12598e-4, -2.45798e-7, 5.12038e-11),
    "z": (-1.909e-1, 7.71097e-4, -7.32301e-7, 1.95637e-10),
}
"""dRow0-3 and dCol0-3 [px] of camera column 4, from the tsField of run 6377."""


@dataclass(frozen=True, slots=True)
class GreatCircle:
    """The circle a run scans along: right ascension of its ascending node, and inclination [deg]."""

    node_deg: float
    incl_deg: float

    def from_sky(self, ra_deg: Floats, dec_deg: Floats) -> tuple[Floats, Floats]:
        """(ra, dec) → (mu, nu)."""
        return self._turn(ra_deg, dec_deg, -np.deg2rad(self.incl_deg))

    def to_sky(self, mu_deg: Floats, nu_deg: Floats) -> tuple[Floats, Floats]:
        """(mu, nu) → (ra, dec), ra in [0, 360)."""
        ra_deg, dec_deg = self._turn(mu_deg, nu_deg, np.deg2rad(self.incl_deg))
        return ra_deg % 360.0, dec_deg

    def _turn(self, longitude_deg: Floats, latitude_deg: Floats, angle: float) -> tuple[Floats, Floats]:
        """Rotate by `angle` about the axis through the node; longitudes stay in the branch they came in."""
        longitude = np.deg2rad(longitude_deg - self.node_deg)
        latitude = np.deg2rad(latitude_deg)
        x = np.cos(longitude) * np.cos(latitude)
        y = np.sin(longitude) * np.cos(latitude)
        z = np.sin(latitude)
        y, z = y * np.cos(angle) - z * np.sin(angle), y * np.sin(angle) + z * np.cos(angle)
        turned = np.rad2deg(np.arctan2(y, x)) + self.node_deg
        turned = longitude_deg + (turned - longitude_deg + 180.0) % 360.0 - 180.0
        return turned, np.rad2deg(np.arcsin(z))


EQUATOR: Final = GreatCircle(95.0, 0.0)
RUN_94: Final = GreatCircle(286.855205, 0.009477)
"""Of the astrometric solution of run 94; its image headers say (284.20539, 0.00836)."""


@dataclass(frozen=True, slots=True)
class Astrometry:
    """The six coefficients, the distortion and the great circle of one field or strip."""

    circle: GreatCircle
    a: float
    b: float
    c: float
    d: float
    e: float
    f: float
    d_row: Cubic = NO_DISTORTION
    d_col: Cubic = NO_DISTORTION

    def to_sky(self, row: Floats, col: Floats) -> tuple[Floats, Floats]:
        """(row, col) → (ra, dec) [deg]."""
        return self._linear_to_sky(row + polyval(col, self.d_row), col + polyval(col, self.d_col))

    def _linear_to_sky(self, row: Floats, col: Floats) -> tuple[Floats, Floats]:
        return self.circle.to_sky(self.a + self.b * row + self.c * col, self.d + self.e * row + self.f * col)

    def to_pixel(self, ra_deg: Floats, dec_deg: Floats) -> tuple[Floats, Floats]:
        """(ra, dec) [deg] → (row, col)."""
        mu, nu = self.circle.from_sky(ra_deg, dec_deg)
        mu = (mu - self.a + 180.0) % 360.0 - 180.0
        nu = nu - self.d
        determinant = self.b * self.f - self.c * self.e
        undistorted_row = (mu * self.f - nu * self.c) / determinant
        undistorted_col = (nu * self.b - mu * self.e) / determinant
        col = undistorted_col
        for _ in range(5):  # each round gains three digits: the distortion changes by under 1e-3 px per px
            col = undistorted_col - polyval(col, self.d_col)
        return undistorted_row - polyval(col, self.d_row), col

    def shifted(self, rows: float) -> Astrometry:
        """The same sky, with row 0 moved on by `rows`."""
        return replace(self, a=(self.a + self.b * rows) % 360.0, d=self.d + self.e * rows)

    def tangent_wcs(self, row: float, col: float) -> tuple[float, float, float, float, float, float]:
        """(CRVAL1, CRVAL2, CD1_1, CD1_2, CD2_1, CD2_2) of the TAN header that touches the sky at (row, col).

        As in real headers the distortion is in the reference point only, so that away from it the
        header is wrong by up to a few tenths of a pixel.
        """
        ra0, dec0 = (float(value) for value in self.to_sky(np.array(row), np.array(col)))
        # Central differences over most of a field: what is quadratic in the distance cancels.
        half_rows, half_cols = 500.0, 700.0
        rows = row + half_rows * np.array([0.0, 0.0, 1.0, -1.0])
        cols = col + half_cols * np.array([1.0, -1.0, 0.0, 0.0])
        xi, eta = _gnomonic(*self._linear_to_sky(rows, cols), ra0, dec0)
        return (
            ra0,
            dec0,
            float(xi[0] - xi[1]) / (2 * half_cols),
            float(xi[2] - xi[3]) / (2 * half_rows),
            float(eta[0] - eta[1]) / (2 * half_cols),
            float(eta[2] - eta[3]) / (2 * half_rows),
        )


def _gnomonic(ra_deg: Floats, dec_deg: Floats, ra0_deg: float, dec0_deg: float) -> tuple[Floats, Floats]:
    """Tangent-plane coordinates [deg] (Calabretta & Greisen 2002, Sect. 5.1.3)."""
    delta, dec, dec0 = np.deg2rad(ra_deg - ra0_deg), np.deg2rad(dec_deg), np.deg2rad(dec0_deg)
    cosine = np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(delta)
    xi = np.cos(dec) * np.sin(delta) / cosine
    eta = (np.cos(dec0) * np.sin(dec) - np.sin(dec0) * np.cos(dec) * np.cos(delta)) / cosine
    return np.rad2deg(xi), np.rad2deg(eta)


@dataclass(frozen=True, slots=True)
class Strip:
    """What one CCD records of one run while the patch passes."""

    run: RunConfig
    camcol: int
    band: Band
    n_fields: int
    astrometry: Astrometry
    """Of the strip's own rows (those of its first field)."""
    tai_s: float
    """TAI [s] at which row 0 is read."""
    header_circle: GreatCircle
    """NODE and INCL as the image header has them: not always those of the astrometry."""

    @property
    def n_rows(self) -> int:
        """Rows of all fields together."""
        return (self.n_fields - 1) * FIELD_STEP + N_ROWS

    @property
    def row_clock_us(self) -> int:
        """Microseconds per row."""
        return 26319 if self.run.stripe_100 else ROW_CLOCK_US

    @property
    def exptime_s(self) -> float:
        """Seconds that a source needs to cross the CCD."""
        return 2048 * self.row_clock_us * 1e-6

    def frame(self, index: int) -> FrameId:
        """Identity of the `index`-th field's image."""
        return FrameId(self.run.layout, self.run.run, self.run.rerun, self.camcol, self.run.field + index, self.band)

    def field_astrometry(self, index: int) -> Astrometry:
        """Coefficients of the `index`-th field, in its own rows."""
        return self.astrometry.shifted(index * FIELD_STEP)

    def field_tai_s(self, index: int) -> float:
        """TAI [s] at which row 0 of the `index`-th field is read."""
        return self.tai_s + index * FIELD_STEP * self.row_clock_us * 1e-6

    def frame_number(self, index: int) -> int:
        """Header card FRAME, which is not the field number except in r."""
        return self.run.field + index + FRAME_MINUS_FIELD[self.band]

    def mid_exposure_mjd(self, row: Floats) -> Floats:
        """MJD(TAI) of the middle of the exposure of the pixels at `row`: half a crossing before they are read."""
        return np.asarray((self.tai_s + row * self.row_clock_us * 1e-6 - self.exptime_s / 2) / 86400.0)


def strips(config: SimulationConfig) -> list[Strip]:
    """Place every run's five CCDs over the patch, each run and band with its own small offset and turn."""
    return [_strip(config, run, band) for run in config.runs for band in BANDS]


def _strip(config: SimulationConfig, run: RunConfig, band: Band) -> Strip:
    rng = np.random.default_rng([config.seed, 1, run.run])
    n_fields = 2 if run.boundary_in_patch else 1
    largest_row, largest_col = config.pointing_scatter_px
    # One field: the patch about its middle. Two: the middle of the rows they share is somewhere in the patch.
    middle = FIELD_STEP + (N_ROWS - FIELD_STEP) / 2 if run.boundary_in_patch else N_ROWS / 2
    row = middle + largest_row * rng.uniform(-1, 1)
    col = N_COLS / 2 + largest_col * rng.uniform(-1, 1)
    # The five CCDs of a column are not exactly in line, nor exactly parallel (real files: ± 10 px, 4e-8 deg/px).
    offset_row, offset_col = 4.0 * rng.standard_normal(5), 3.0 * rng.standard_normal(5)
    turn = 2e-8 * rng.standard_normal((5, 2))
    index = BANDS.index(band)
    row, col = row + float(offset_row[index]), col + float(offset_col[index])
    c, e = (float(value) for value in turn[index])
    circle = RUN_94 if run.stripe_100 else EQUATOR
    mu, nu = circle.from_sky(np.array(config.patch.ra_deg), np.array(config.patch.dec_deg))
    a = (float(mu) - PIXEL_DEG * row - c * col) % 360.0
    d_row, d_col = (ROW_DISTORTION[band], COL_DISTORTION[band]) if config.optical_distortion else (NO_DISTORTION,) * 2
    d = float(nu) - e * row - PIXEL_DEG * col
    astrometry = Astrometry(circle, a, PIXEL_DEG, c, d, e, PIXEL_DEG, d_row, d_col)
    tai_s = run.mjd * 86400.0 - row * ROW_CLOCK_US * 1e-6 + READOUT_ORDER.index(band) * BAND_DELAY_S
    header = GreatCircle(284.20539, 0.00836) if run.stripe_100 else circle
    return Strip(run, config.patch.camcol, band, n_fields, astrometry, round(tai_s, 2), header)
