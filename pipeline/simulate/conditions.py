"""The night of a run: seeing, sky, airmass, and how many counts a nanomaggy gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.bands import BANDS
from pipeline.simulate.camera import EXPTIME_S, N_COLS, PIXEL_ARCSEC, Strip
from pipeline.simulate.config import BandConfig, SimulationConfig

Floats = NDArray[np.float64]

WIDTH_ARCSEC_PER_SQRT_NEFF: Final = 0.2652
"""psf_width / sqrt(neff_psf) in every row of the real tsField and photoField tables."""


@dataclass(frozen=True, slots=True)
class DoubleGaussian:
    """PSF of SDSS's two-Gaussian fits, the pixel included: exp(-r²/2σ₁²) + b exp(-r²/2σ₂²)."""

    sigma1_px: float
    sigma2_px: float
    wing: float

    @property
    def area_px(self) -> float:
        """Integral over peak of the narrow Gaussian (column psfCounts has it so)."""
        return 2 * np.pi * (self.sigma1_px**2 + self.wing * self.sigma2_px**2)

    @property
    def neff_px(self) -> float:
        """Effective number of pixels, (∫p)² / ∫p²."""
        narrow, wide = self.sigma1_px**2, self.sigma2_px**2
        cross = 4 * np.pi * self.wing * narrow * wide / (narrow + wide)
        return float(self.area_px**2 / (np.pi * (narrow + self.wing**2 * wide) + cross))

    @property
    def width_arcsec(self) -> float:
        """psf_width: the effective full width at half maximum."""
        return float(WIDTH_ARCSEC_PER_SQRT_NEFF * np.sqrt(self.neff_px))


def double_gaussian(width_arcsec: float, sigma_ratio: float, wing: float) -> DoubleGaussian:
    """The double Gaussian of that psf_width."""
    unit = DoubleGaussian(1.0, sigma_ratio, wing)
    sigma1 = width_arcsec / unit.width_arcsec
    return DoubleGaussian(sigma1, sigma_ratio * sigma1, wing)


@dataclass(frozen=True, slots=True)
class Conditions:
    """Of one strip."""

    ccd: BandConfig
    psf: DoubleGaussian
    airmass: float
    aa_mag: float
    """Zero point of this run, as its calibration table says it."""
    sky_nmgy_arcsec2: float
    sky_tilt: tuple[float, float, float]
    """Relative change of the sky over a field step along the rows, over half the columns, and its curvature there."""
    flat_C: Floats
    """Relative sensitivity of the columns, mean 1: all 1 in DR7 images; in DR8+ the calibration vector has it."""
    transmission: float
    """Of clouds that the calibration table does not know about."""

    @property
    def nmgy_per_dn(self) -> float:
        """Calibration, 10^9 / EXPTIME × 10^(0.4 (aa + kk airmass))."""
        return float(1e9 / EXPTIME_S * 10 ** (0.4 * (self.aa_mag + self.ccd.extinction_kk_mag * self.airmass)))

    @property
    def column_nmgy_per_dn(self) -> NDArray[np.float32]:
        """The same for each column, flat field included."""
        return (self.nmgy_per_dn / self.flat_C).astype(np.float32)

    @property
    def sky_dn(self) -> float:
        """Sky level per pixel."""
        return self.sky_nmgy_arcsec2 * PIXEL_ARCSEC**2 / self.nmgy_per_dn

    def sky_dn_at(self, row: Floats, col: Floats) -> Floats:
        """Sky [DN] at broadcastable pixel coordinates of the strip."""
        along, across, curved = self.sky_tilt
        x = (col - N_COLS / 2) / (N_COLS / 2)
        return np.asarray(self.sky_dn * (1 + along * row / 1361.0 + across * x + curved * x * x))


def draw_conditions(config: SimulationConfig, strip: Strip) -> Conditions:
    """Draw the night of `strip`'s run from the survey's figures; bands of a run share seeing, moon and airmass."""
    rng = np.random.default_rng([config.seed, 4, strip.run.run])
    index = BANDS.index(strip.band)
    ccd, seeing = config.bands[strip.band], config.seeing
    width = seeing.median_arcsec * np.exp(seeing.log_scatter * rng.standard_normal())
    width = float(np.clip(width, *seeing.range_arcsec)) * ccd.fwhm_over_r
    width *= float(np.exp(ccd.fwhm_log_scatter * rng.standard_normal(5)[index]))
    airmass = float(1.19 + 0.03 * abs(rng.standard_normal()) + 0.002 * index)
    aa = ccd.zeropoint_aa_mag + float(0.03 * rng.standard_normal(5)[index])
    moon = strip.run.moon if strip.band in "ug" else strip.run.moon**0.5
    sky = ccd.sky_nmgy_arcsec2 * moon * float(np.exp(ccd.sky_log_scatter * rng.standard_normal(5)[index]))
    tilt = 0.0015 * rng.standard_normal((5, 3))[index]
    return Conditions(
        ccd,
        double_gaussian(width, seeing.sigma_ratio, seeing.wing),
        airmass,
        aa,
        sky,
        (float(tilt[0]), float(tilt[1]), float(tilt[2])),
        _flat(strip, rng.uniform(0, 2 * np.pi, 5)[index]),
        float(10 ** (-0.4 * strip.run.clouds_mag)),
    )


def _flat(strip: Strip, phase: float) -> Floats:
    if strip.run.layout == "das-dr7":
        return np.ones(N_COLS)
    x = np.arange(N_COLS) / N_COLS
    flat = 1 + 1e-3 * np.sin(2 * np.pi * x + phase) + 5e-4 * np.sin(14 * np.pi * x)
    return np.asarray(flat / flat.mean())
