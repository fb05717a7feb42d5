"""Thumbnails without frames: of each strip only the pixels that an object's thumbnail is made of.

What falls on them is drawn, recorded and calibrated as `render` and the archive's pipelines do it for whole strips, and
resampled by the very function that cuts frames: noise, its correlation and the PSF come out equal. Left out are ghosts
and dead columns, and the sky is known, not estimated.

Shapes: T targets, R × C pixels of the stamp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.bands import BAND_ID, BANDS
from pipeline.calibrate import variance_nmgy2
from pipeline.frame import ArrayPixels, FieldCalibration, Frame, ZeropointSource
from pipeline.sequences import MaskBit
from pipeline.simulate.camera import FIELD_STEP, N_COLS, N_ROWS, PIXEL_ARCSEC, Strip
from pipeline.simulate.conditions import Conditions, DoubleGaussian
from pipeline.simulate.config import SimulationConfig
from pipeline.simulate.frame import keep_ten_digits
from pipeline.simulate.mixture import add_galaxy
from pipeline.simulate.population import Galaxies, Population
from pipeline.simulate.render import PSF_SIGMAS, add_noise, cosmic_rays, interpolate, saturate
from pipeline.spline import REACH_PX
from pipeline.survey import ThumbnailConfig
from pipeline.thumbnails import cut_thumbnails

Floats = NDArray[np.float64]
GALAXY_REACH_RADII: Final = 5.0
"""Half-light radii out to which a galaxy is drawn, as in `render`."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """A rectangle of one field, in rows and columns of the strip."""

    rows: slice
    cols: slice
    field_index: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return self.rows.stop - self.rows.start, self.cols.stop - self.cols.start


@dataclass(frozen=True, slots=True)
class _StampSolution:
    """The strip's astrometry in pixels of a stamp."""

    strip: Strip
    stamp: Stamp

    def world_to_pixel(self, ra_deg: Floats, dec_deg: Floats) -> tuple[Floats, Floats]:
        """0-based (x, y)."""
        row, col = self.strip.astrometry.to_pixel(ra_deg, dec_deg)
        return col - 0.5 - self.stamp.cols.start, row - 0.5 - self.stamp.rows.start

    def pixel_to_world(self, x_pix: Floats, y_pix: Floats) -> tuple[Floats, Floats]:
        """RA, Dec [deg]."""
        return self.strip.astrometry.to_sky(y_pix + 0.5 + self.stamp.rows.start, x_pix + 0.5 + self.stamp.cols.start)


def place_stamp(strip: Strip, ra_deg: float, dec_deg: float, size: int) -> Stamp | None:
    """The pixels that the thumbnail of a target feels, in the field where it is farthest from the row edges.

    None where the thumbnail is off the strip.
    """
    row, col = (float(value) for value in strip.astrometry.to_pixel(np.array(ra_deg), np.array(dec_deg)))
    first_rows = np.arange(strip.n_fields) * FIELD_STEP
    index = int(np.argmax(np.minimum(row - first_rows, first_rows + N_ROWS - row)))
    half = int(np.ceil(0.72 * size)) + REACH_PX + 2  # a thumbnail may lie askew
    first_row = int(first_rows[index])
    rows = slice(max(int(row) - half, first_row), min(int(row) + half + 1, first_row + N_ROWS))
    cols = slice(max(int(col) - half, 0), min(int(col) + half + 1, N_COLS))
    return Stamp(rows, cols, index) if rows.stop > rows.start and cols.stop > cols.start else None


def expose(
    config: SimulationConfig,
    strip: Strip,
    conditions: Conditions,
    population: Population,
    point_flux_nmgy_T: Floats,
    stamp: Stamp,
    rng: np.random.Generator,
) -> Frame:
    """Record and calibrate the stamp: a frame as readers give it."""
    source_RC = _sources(strip, conditions, population, point_flux_nmgy_T, stamp)
    row = np.arange(stamp.rows.start, stamp.rows.stop, dtype=float)[:, None] + 0.5
    col = np.arange(stamp.cols.start, stamp.cols.stop, dtype=float)[None, :] + 0.5
    sky_RC = conditions.sky_dn_at(row, col)
    ccd = conditions.ccd
    dn_RC = add_noise(source_RC + sky_RC.astype(np.float32), ccd.gain_e_per_dn, ccd.dark_variance_dn2, rng)
    satur_RC = saturate(dn_RC, ccd.saturation_dn)
    share = dn_RC.size / (N_ROWS * N_COLS)
    hit_RC = cosmic_rays(0, dn_RC.shape, rng, count=int(rng.poisson(config.field.cosmic_rays * share)))
    interp_RC = satur_RC | hit_RC
    interpolate(dn_RC, interp_RC)
    return _calibrated(strip, conditions, stamp, dn_RC, sky_RC, _mask(satur_RC, hit_RC, interp_RC))


def record(frame: Frame, ra_deg: float, dec_deg: float, config: ThumbnailConfig) -> dict[str, Any]:
    """One image of a sequence, with the keys of `sequences.COLUMNS`; its zero point is not checked."""
    cut = cut_thumbnails(frame, np.array([ra_deg]), np.array([dec_deg]), config)
    calibration = frame.calibration
    return {
        "image": cut.image_THW[0],
        "variance": cut.variance_THW[0],
        "mask": cut.mask_THW[0],
        "noise_factor": float(cut.noise_factor_T[0]),
        "coverage": float(cut.coverage_T[0]),
        "x_pix": float(cut.x_pix_T[0]),
        "y_pix": float(cut.y_pix_T[0]),
        "mjd_tai": float(cut.mjd_tai_T[0]),
        "band_id": BAND_ID[frame.id.band],
        "run": frame.id.run,
        "rerun": frame.id.rerun,
        "camcol": frame.id.camcol,
        "field": frame.id.field,
        "zeropoint": frame.zeropoint_nmgy,
        "zeropoint_source": int(frame.zeropoint_source),
        "psf_fwhm_arcsec": calibration.psf_fwhm_arcsec,
        "sky_nmgy_arcsec2": calibration.sky_nmgy_arcsec2,
        "airmass": calibration.airmass,
        "quality": calibration.quality,
        "frame_sha256": "",
    }


def _sources(
    strip: Strip, conditions: Conditions, population: Population, point_flux_nmgy_T: Floats, stamp: Stamp
) -> NDArray[np.float32]:
    """Counts of all that reaches the stamp, without sky and noise."""
    image_RC = np.zeros(stamp.shape, dtype=np.float32)
    band, dn_per_nmgy = BANDS.index(strip.band), conditions.transmission / conditions.nmgy_per_dn
    stars, targets = population.stars, population.targets
    ra = np.append(stars.ra_deg_N, [target.ra_deg for target in targets])
    dec = np.append(stars.dec_deg_N, [target.dec_deg for target in targets])
    flux = np.append(stars.flux_nmgy_N5[:, band], point_flux_nmgy_T)
    row, col = strip.astrometry.to_pixel(ra, dec)
    add_points(image_RC, conditions.psf, row - stamp.rows.start, col - stamp.cols.start, flux * dn_per_nmgy)
    for galaxies in (population.galaxies, population.hosts):
        _add_galaxies(image_RC, conditions.psf, galaxies, strip, band, stamp, dn_per_nmgy)
    return np.asarray(image_RC * conditions.flat_C[stamp.cols].astype(np.float32))


def add_points(
    image_RC: NDArray[np.float32], psf: DoubleGaussian, row_N: Floats, col_N: Floats, flux_N: Floats
) -> None:
    """Add point sources; the PSF is that of pixels already, so its value at their centres is what they get."""
    reach = PSF_SIGMAS * psf.sigma2_px + 1
    height, width = image_RC.shape
    near_N = (row_N > -reach) & (row_N < height + reach) & (col_N > -reach) & (col_N < width + reach) & (flux_N > 0)
    dy_NR = np.arange(height) + 0.5 - row_N[near_N, None]
    dx_NC = np.arange(width) + 0.5 - col_N[near_N, None]
    for sigma, peak in ((psf.sigma1_px, 1.0), (psf.sigma2_px, psf.wing)):
        along_NR, across_NC = (np.exp(-0.5 * (d / sigma) ** 2) for d in (dy_NR, dx_NC))
        weight_N = flux_N[near_N] * peak / psf.area_px
        image_RC += np.einsum("n,nr,nc->rc", weight_N, along_NR, across_NC).astype(np.float32)


def _add_galaxies(
    image_RC: NDArray[np.float32],
    psf: DoubleGaussian,
    galaxies: Galaxies,
    strip: Strip,
    band: int,
    stamp: Stamp,
    dn_per_nmgy: float,
) -> None:
    """Add those that reach the stamp with some light."""
    row, col = strip.astrometry.to_pixel(galaxies.ra_deg_N, galaxies.dec_deg_N)
    radius_px, flux = galaxies.radius_arcsec_N / PIXEL_ARCSEC, galaxies.flux_nmgy_N5[:, band] * dn_per_nmgy
    reach = GALAXY_REACH_RADII * radius_px + 8
    near = (row > stamp.rows.start - reach) & (row < stamp.rows.stop + reach)
    near &= (col > stamp.cols.start - reach) & (col < stamp.cols.stop + reach) & (flux > 0)
    for k in np.flatnonzero(near):
        add_galaxy(
            image_RC,
            psf,
            float(row[k]) - stamp.rows.start,
            float(col[k]) - stamp.cols.start,
            float(flux[k]),
            radius_px=float(radius_px[k]),
            sersic=float(galaxies.sersic_N[k]),
            axis_ratio=float(galaxies.axis_ratio_N[k]),
            # Columns run north and rows east, so an angle from +x to +y is an angle from north through east.
            angle_rad=float(np.deg2rad(galaxies.position_angle_deg_N[k])),
        )


def _mask(satur_RC: NDArray[np.bool_], hit_RC: NDArray[np.bool_], interp_RC: NDArray[np.bool_]) -> NDArray[np.uint8]:
    bits = ((satur_RC, MaskBit.SATUR), (hit_RC, MaskBit.CR), (interp_RC, MaskBit.INTERP))
    mask_RC = np.zeros(satur_RC.shape, dtype=np.uint8)
    for flags_RC, bit in bits:
        mask_RC[flags_RC] |= np.uint8(bit)
    return mask_RC


def _calibrated(
    strip: Strip,
    conditions: Conditions,
    stamp: Stamp,
    dn_RC: NDArray[np.int32],
    sky_RC: Floats,
    mask_RC: NDArray[np.uint8],
) -> Frame:
    nmgy_per_dn_C = conditions.column_nmgy_per_dn[stamp.cols]
    image_RC = ((dn_RC - sky_RC) * nmgy_per_dn_C).astype(np.float32)
    dr8 = strip.run.layout == "sas-dr8"
    calibration = FieldCalibration(
        gain_e_per_count=conditions.ccd.gain_e_per_dn,
        dark_variance_counts2=conditions.ccd.dark_variance_dn2,
        nmgy_per_count=conditions.nmgy_per_dn,
        psf_fwhm_arcsec=conditions.psf.width_arcsec,
        sky_nmgy_arcsec2=conditions.sky_nmgy_arcsec2,
        airmass=conditions.airmass,
        quality=strip.run.quality,
        mjd_tai_row0=strip.tai_s / 86400.0,
    )
    variance_RC = variance_nmgy2(dn_RC.astype(np.float32), nmgy_per_dn_C, calibration)
    return Frame(
        id=strip.frame(stamp.field_index),
        pixels=ArrayPixels(keep_ten_digits(image_RC) if dr8 else image_RC, variance_RC, mask_RC),
        solution=_StampSolution(strip, stamp),
        tai_row0_s=strip.tai_s + stamp.rows.start * strip.row_clock_us * 1e-6,
        row_clock_s=strip.row_clock_us * 1e-6,
        exposure_s=strip.exptime_s,
        zeropoint_nmgy=conditions.nmgy_per_dn,
        zeropoint_source=ZeropointSource.FRAME if dr8 else ZeropointSource.TSFIELD,
        calibration=calibration,
    )
