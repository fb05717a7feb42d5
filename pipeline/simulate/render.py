"""From sources to what the CCD recorded: integer counts, and which pixels are not to be trusted.

Sources are drawn with GalSim (Rowe et al. 2015, A&C 10, 121). Point sources share one effective PSF per
strip, drawn oversampled and shifted by bilinear interpolation (Anderson & King 2000, PASP 112, 1360),
which moves a star by any part of a pixel to better than 1e-3 px.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import galsim
import numpy as np
from numpy.typing import NDArray

from pipeline.bands import BAND_ID
from pipeline.simulate.camera import FIELD_STEP, N_COLS, N_ROWS, PIXEL_ARCSEC, Strip
from pipeline.simulate.conditions import Conditions, DoubleGaussian
from pipeline.simulate.config import SimulationConfig
from pipeline.simulate.fpm import pixel_runs
from pipeline.simulate.population import Galaxies, Population

Floats = NDArray[np.float64]
Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

OVERSAMPLING: Final = 20
PSF_SIGMAS: Final = 5.5
"""A star's stamp reaches this many σ₂ out; 1e-7 of its flux lies beyond."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One strip as the DR7 and DR8 pipelines leave it: flat-fielded, and interpolated over defects."""

    dn_RC: NDArray[np.int32]
    """Counts, sky included, software bias not."""
    satur_RC: Mask
    cosmic_ray_RC: Mask
    interp_RC: Mask
    """All that was interpolated: saturated, cosmic rays and bad columns."""
    ghost_RC: Mask


def render(
    config: SimulationConfig, strip: Strip, conditions: Conditions, population: Population, point_flux_nmgy: Floats
) -> Recorded:
    """Record the strip: `point_flux_nmgy` holds the flux of each target when this strip saw it."""
    source_RC = _draw_sources(strip, conditions, population, point_flux_nmgy)
    rng = np.random.default_rng([config.seed, 5, strip.run.run, BAND_ID[strip.band]])
    ghost_RC = _add_ghost(source_RC, strip, rng)
    expected_RC = source_RC + _sky(conditions, strip.n_rows)
    dn_RC = add_noise(expected_RC, conditions.ccd.gain_e_per_dn, conditions.ccd.dark_variance_dn2, rng)
    satur_RC = saturate(dn_RC, conditions.ccd.saturation_dn)
    cosmic_ray_RC = cosmic_rays(config.field.cosmic_rays, dn_RC.shape, rng)
    interp_RC = satur_RC | cosmic_ray_RC
    interp_RC[:, _bad_column(config, strip)] = True
    interpolate(dn_RC, interp_RC)
    return Recorded(dn_RC, satur_RC, cosmic_ray_RC, interp_RC, ghost_RC)


def _draw_sources(strip: Strip, conditions: Conditions, population: Population, point_flux_nmgy: Floats) -> Image:
    """Counts of all sources, without sky and noise."""
    canvas = galsim.ImageF(N_COLS, strip.n_rows, xmin=0, ymin=0, scale=PIXEL_ARCSEC)
    band = BAND_ID[strip.band] - 1
    dn_per_nmgy = conditions.transmission / conditions.nmgy_per_dn
    stars, targets = population.stars, population.targets
    epsf = EffectivePsf.of(conditions.psf)
    ra = np.append(stars.ra_deg_N, [target.ra_deg for target in targets])
    dec = np.append(stars.dec_deg_N, [target.dec_deg for target in targets])
    flux = np.append(stars.flux_nmgy_N5[:, band], point_flux_nmgy)
    row, col = strip.astrometry.to_pixel(ra, dec)
    epsf.add_to(canvas.array, col - 0.5, row - 0.5, flux * dn_per_nmgy)
    psf = galsim_psf(conditions.psf)
    for galaxies in (population.galaxies, population.hosts):
        draw_galaxies(canvas, galaxies, strip, band, psf, dn_per_nmgy)
    # Columns of unequal sensitivity count unequally; the calibration vector takes it out again.
    return np.asarray(canvas.array * conditions.flat_C.astype(np.float32))


def galsim_psf(psf: DoubleGaussian) -> galsim.GSObject:
    narrow = galsim.Gaussian(sigma=psf.sigma1_px * PIXEL_ARCSEC, flux=psf.sigma1_px**2)
    wide = galsim.Gaussian(sigma=psf.sigma2_px * PIXEL_ARCSEC, flux=psf.wing * psf.sigma2_px**2)
    return galsim.Add(narrow, wide).withFlux(1.0)


@dataclass(frozen=True, slots=True)
class EffectivePsf:
    """A PSF sampled `OVERSAMPLING` times per pixel, whose samples one pixel apart add up to 1."""

    fine: Image
    half: int

    @classmethod
    def of(cls, psf: DoubleGaussian) -> EffectivePsf:
        """Draw it with GalSim; the fit that the double Gaussian stands for has the pixel in it."""
        half = int(np.ceil(PSF_SIGMAS * psf.sigma2_px))
        size = 2 * (half + 1) * OVERSAMPLING + 1
        image = galsim_psf(psf).drawImage(nx=size, ny=size, scale=PIXEL_ARCSEC / OVERSAMPLING, method="no_pixel")
        return cls(image.array * np.float32(OVERSAMPLING**2), half)

    def add_to(self, image: Image, x_pix: Floats, y_pix: Floats, flux: Floats) -> None:
        """Add point sources at 0-based pixel positions; parts outside the image are dropped."""
        for x, y, counts in zip(x_pix.tolist(), y_pix.tolist(), flux.tolist(), strict=True):
            # What the wings of a faint star add far out is below a hundredth of a count.
            half = self.half if counts > 3000 else min(self.half, int(0.75 * self.half))
            ix, iy = round(x), round(y)
            y0, y1 = max(iy - half, 0), min(iy + half + 1, image.shape[0])
            x0, x1 = max(ix - half, 0), min(ix + half + 1, image.shape[1])
            if counts <= 0 or y0 >= y1 or x0 >= x1:
                continue
            stamp = self._shifted(x - ix, y - iy, half)
            image[y0:y1, x0:x1] += counts * stamp[y0 - iy + half : y1 - iy + half, x0 - ix + half : x1 - ix + half]

    def _shifted(self, dx: float, dy: float, half: int) -> Image:
        """Samples one pixel apart of the PSF centred `dx`, `dy` from the middle of the stamp."""
        first = (self.half + 1 - half) * OVERSAMPLING
        length = 2 * half * OVERSAMPLING + 1
        column, row = -dx * OVERSAMPLING, -dy * OVERSAMPLING
        j, i = int(np.floor(column)), int(np.floor(row))
        v, u = np.float32(column - j), np.float32(row - i)

        def samples(down: int, right: int) -> Image:
            top, left = first + i + down, first + j + right
            return self.fine[top : top + length : OVERSAMPLING, left : left + length : OVERSAMPLING]

        upper = (1 - v) * samples(0, 0) + v * samples(0, 1)
        lower = (1 - v) * samples(1, 0) + v * samples(1, 1)
        return np.asarray((1 - u) * upper + u * lower)


def draw_galaxies(
    canvas: galsim.ImageF, galaxies: Galaxies, strip: Strip, band: int, psf: galsim.GSObject, dn_per_nmgy: float
) -> None:
    """Add those that reach into the canvas, whose bounds are pixels of the strip [counts]."""
    row, col = strip.astrometry.to_pixel(galaxies.ra_deg_N, galaxies.dec_deg_N)
    counts = galaxies.flux_nmgy_N5[:, band] * dn_per_nmgy
    for k in np.flatnonzero(counts > 0):
        radius = float(galaxies.radius_arcsec_N[k])
        half = int(np.ceil(5.0 * radius / PIXEL_ARCSEC)) + 8
        x, y = float(col[k]) - 0.5, float(row[k]) - 0.5
        bounds = galsim.BoundsI(round(x) - half, round(x) + half, round(y) - half, round(y) + half) & canvas.bounds
        if not bounds.isDefined():
            continue
        # Columns run north and rows east, so an angle from +x to +y is an angle from north through east.
        angle = float(galaxies.position_angle_deg_N[k]) * galsim.degrees
        profile = galsim.Sersic(n=float(galaxies.sersic_N[k]), half_light_radius=radius, flux=float(counts[k]))
        profile = profile.shear(q=float(galaxies.axis_ratio_N[k]), beta=angle)
        galsim.Convolve(profile, psf).drawImage(
            image=canvas[bounds], add_to_image=True, center=galsim.PositionD(x, y), method="no_pixel"
        )


def _sky(conditions: Conditions, n_rows: int) -> Image:
    row = np.arange(n_rows, dtype=float)[:, None] + 0.5
    col = np.arange(N_COLS, dtype=float)[None, :] + 0.5
    return conditions.sky_dn_at(row, col).astype(np.float32)


def add_noise(expected_RC: Image, gain: float, dark_variance: float, rng: np.random.Generator) -> NDArray[np.int32]:
    """Integer counts whose variance is expected / gain + dark_variance.

    Photon noise is a Gaussian with the skewness of the Poisson law put in by its Cornish-Fisher term,
    which at 20 electrons and more is as good as, and ten times faster than, Poisson deviates. The
    variance that rounding adds, 1/12, is part of `dark_variance`.
    """
    normal = rng.standard_normal(expected_RC.shape, dtype=np.float32)
    photon_variance = np.maximum(expected_RC, 0) / np.float32(gain)
    variance = photon_variance + np.float32(dark_variance - 1 / 12)
    skew = photon_variance / (np.float32(6 * gain) * variance)
    counts = expected_RC + np.sqrt(variance) * normal + skew * (normal * normal - 1)
    return np.rint(counts).astype(np.int32)


def saturate(dn_RC: NDArray[np.int32], full_well_dn: int) -> Mask:
    """Let what a full pixel cannot hold bleed along its column, and return which pixels are full or next to it."""
    satur_RC = dn_RC >= full_well_dn
    for column in np.flatnonzero(satur_RC.any(axis=0)):
        _bleed(dn_RC[:, column], full_well_dn)
    satur_RC = dn_RC >= full_well_dn
    grown = satur_RC.copy()
    grown[:, 1:] |= satur_RC[:, :-1]
    grown[:, :-1] |= satur_RC[:, 1:]
    grown[1:] |= satur_RC[:-1]
    grown[:-1] |= satur_RC[1:]
    return grown


def _bleed(dn_R: NDArray[np.int32], full_well_dn: int) -> None:
    """Move each pixel's excess to its neighbours, half up and half down the column, until none is over-full."""
    for step in (1, -1):
        excess = 0
        rows = range(dn_R.size) if step == 1 else range(dn_R.size - 1, -1, -1)
        for row in rows:
            over = int(dn_R[row]) - full_well_dn
            if over > 0 and step == 1:
                excess += over // 2
                dn_R[row] -= over // 2
            elif over > 0:
                excess += over
                dn_R[row] = full_well_dn
            elif excess > 0:
                taken = min(excess, -over)
                dn_R[row] += taken
                excess -= taken
    np.minimum(dn_R, full_well_dn, out=dn_R)


def cosmic_rays(per_field: float, shape: tuple[int, ...], rng: np.random.Generator, count: int | None = None) -> Mask:
    """Pixels hit: single ones and short straight tracks; as many as are due on so many rows, or `count`."""
    n_rows, n_cols = shape
    mask_RC = np.zeros((n_rows, n_cols), dtype=bool)
    count = round(per_field * n_rows / N_ROWS) if count is None else count
    length = np.minimum(rng.geometric(0.4, count), 12)
    y, x = rng.uniform(0, n_rows, count), rng.uniform(0, n_cols, count)
    angle = rng.uniform(0, np.pi, count)
    for k in range(count):
        along = np.arange(length[k])
        rows = np.clip(y[k] + along * np.sin(angle[k]), 0, n_rows - 1).astype(int)
        cols = np.clip(x[k] + along * np.cos(angle[k]), 0, n_cols - 1).astype(int)
        mask_RC[rows, cols] = True
    return mask_RC


def _bad_column(config: SimulationConfig, strip: Strip) -> int:
    """The dead column of this CCD: the same in every run."""
    rng = np.random.default_rng([config.seed, 6, strip.camcol, BAND_ID[strip.band]])
    return int(rng.integers(50, N_COLS - 50))


def _add_ghost(source_RC: Image, strip: Strip, rng: np.random.Generator) -> Mask:
    """In one i strip of five: the faint disc of light that a bright star reflects into another place."""
    mask_RC = np.zeros(source_RC.shape, dtype=bool)
    chance, row, col = rng.uniform(size=3)
    if strip.band != "i" or chance > 0.2:
        return mask_RC
    y, x = np.ogrid[: source_RC.shape[0], :N_COLS]
    mask_RC |= np.hypot(y - (100 + row * FIELD_STEP), x - (100 + col * (N_COLS - 200))) < 76
    source_RC[mask_RC] += 4.0
    return mask_RC


def interpolate(dn_RC: NDArray[np.int32], bad_RC: Mask) -> None:
    """Replace every run of bad pixels by the straight line between the good ones at its two ends, in place."""
    rows, first, last = pixel_runs(bad_RC).T
    end = dn_RC.shape[1] - 1
    left, right = dn_RC[rows, np.maximum(first - 1, 0)], dn_RC[rows, np.minimum(last + 1, end)]
    left, right = np.where(first == 0, right, left), np.where(last == end, left, right)
    length = last - first + 1
    step = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length) + 1
    weight = step / np.repeat(length + 1, length)
    line = np.repeat(left, length) * (1 - weight) + np.repeat(right, length) * weight
    dn_RC[np.repeat(rows, length), np.repeat(first, length) + step - 1] = np.rint(line).astype(np.int32)
