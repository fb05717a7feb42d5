"""Stars on a DR7 frame: found, or measured where they are known to be.

What is compared from night to night is the flux of a whole star: its flux in 3″, which has the least noise, times
the frame's own aperture correction to 7.43″, SDSS's aperture for the flux of bright stars, so that bad seeing does not
look like clouds.

Shapes: S stars; fluxes in nanomaggies by the frame's own zero point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import sep
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.compiled import compiled
from pipeline.fpc import FpcPixels
from pipeline.frame import Frame
from pipeline.photometry import aperture_fraction
from pipeline.robust import robust_mean
from pipeline.sequences import MaskBit

Floats = NDArray[np.float64]

PIXEL_ARCSEC: Final = 0.396
SMALL_ARCSEC: Final = 3.0
WHOLE_ARCSEC: Final = 7.43
"""SDSS aperture 7 (https://www.sdss4.org/dr17/algorithms/magnitudes/): PSF fluxes of stars are calibrated to it."""
SMALL_PX: Final = SMALL_ARCSEC / PIXEL_ARCSEC
SKY_PX: Final = (20.0, 25.0)
"""Radii of the ring whose median is the star's own sky."""
EDGE_PX: Final = 26
DETECTION_SIGMA: Final = 4.0
"""Of a single pixel. What is used has a signal to noise ratio over 20 in 3″."""
MIN_AREA_PX: Final = 9
MIN_SNR: Final = 20.0
ISOLATION_ARCSEC: Final = 10.0
CONCENTRATION_SPREAD: Final = 0.04
"""Stars' flux in 1.2″ over that in 3″ is within this part of its mode; galaxies' and double stars' is less."""
RADII_PX: Final = np.array([1.2, SMALL_ARCSEC, WHOLE_ARCSEC]) / PIXEL_ARCSEC
PSF_MODEL_ERROR: Final = 0.013
"""Of `aperture_fraction` with the typical shape of the PSF."""
BRIGHT_SNR: Final = 60.0
MIN_BRIGHT: Final = 5
SPOILING: Final = MaskBit.SATUR | MaskBit.CR | MaskBit.INTERP
MAX_DETECTIONS: Final = 3000


@dataclass(frozen=True, slots=True)
class Positions:
    """Stars to be measured."""

    ra_deg_S: Floats
    dec_deg_S: Floats

    def __len__(self) -> int:
        return len(self.ra_deg_S)


@dataclass(frozen=True, slots=True)
class StarFluxes:
    """Stars of a list as one frame has them."""

    star_S: NDArray[np.intp]
    """Indices in the list."""
    flux_nmgy_S: Floats
    """Of the whole star."""
    error_nmgy_S: Floats
    correction_error: float
    """Relative error of the aperture correction, which all stars share."""


def find_stars(frame: Frame) -> Positions:
    """The isolated, unsaturated, bright stars of a frame.

    Raises
    ------
    TypeError
        It is no DR7 frame.
    """
    pixels = _fpc(frame)
    excess_YX = pixels.counts_YX - pixels.sky_YX
    noise = 1.4826 * float(np.median(np.abs(excess_YX[::7, ::5])))
    found = _extract(excess_YX, DETECTION_SIGMA * max(noise, 1e-3))
    x_S, y_S = found["x"].astype(np.float64), found["y"].astype(np.float64)
    apertures = _measure(pixels, x_S, y_S)
    good_S = _inside(pixels, x_S, y_S) & _alone(x_S, y_S, ISOLATION_ARCSEC / PIXEL_ARCSEC)
    good_S &= ~_spoilt(pixels, x_S, y_S) & (apertures.small_S > MIN_SNR * apertures.error_S)
    if good_S.any():
        concentration_S = apertures.core_S / np.where(good_S, apertures.small_S, np.inf)
        good_S &= np.abs(concentration_S / _mode(concentration_S[good_S]) - 1) < CONCENTRATION_SPREAD
    return Positions(*frame.solution.pixel_to_world(x_S[good_S], y_S[good_S]))


def measure_stars(frame: Frame, positions: Positions) -> StarFluxes:
    """Flux of every star of a list that is well on the frame and not spoilt there.

    Raises
    ------
    TypeError
        It is no DR7 frame.
    """
    pixels = _fpc(frame)
    x_S, y_S = frame.world_to_pixel(positions.ra_deg_S, positions.dec_deg_S)
    star_S = np.flatnonzero(_inside(pixels, x_S, y_S))
    star_S = star_S[~_spoilt(pixels, x_S[star_S], y_S[star_S])]
    apertures = _measure(pixels, x_S[star_S], y_S[star_S])
    factor, correction_error = _aperture_correction(apertures, frame)
    scale = factor * pixels.calibration.nmgy_per_count
    return StarFluxes(star_S, apertures.small_S * scale, apertures.error_S * scale, correction_error)


def _fpc(frame: Frame) -> FpcPixels:
    if not isinstance(frame.pixels, FpcPixels):
        raise TypeError(f"stars are measured on DR7 frames, {frame.id} is none")
    return frame.pixels


def _extract(excess_YX: NDArray[np.float32], threshold: float) -> NDArray[np.void]:
    """Source Extractor's detections; a field with very bright stars may need a higher threshold to fit its buffers."""
    while True:
        try:
            found = sep.extract(
                excess_YX, threshold, minarea=MIN_AREA_PX, filter_kernel=None, deblend_cont=1.0, clean=False
            )
        except Exception as error:  # sep has no exception of its own for this
            if "full" not in str(error) and "limit" not in str(error):
                raise
            threshold *= 4
            continue
        return np.asarray(found[np.argsort(-found["flux"], kind="stable")][:MAX_DETECTIONS])


def _inside(pixels: FpcPixels, x_S: Floats, y_S: Floats) -> NDArray[np.bool_]:
    height, width = pixels.shape
    return (x_S >= EDGE_PX) & (x_S < width - 1 - EDGE_PX) & (y_S >= EDGE_PX) & (y_S < height - 1 - EDGE_PX)


def _alone(x_S: Floats, y_S: Floats, radius_px: float) -> NDArray[np.bool_]:
    if not x_S.size:
        return np.zeros(0, dtype=bool)
    places = np.column_stack([x_S, y_S])
    return np.asarray(cKDTree(places).query_ball_point(places, radius_px, return_length=True) == 1)


def _spoilt(pixels: FpcPixels, x_S: Floats, y_S: Floats) -> NDArray[np.bool_]:
    """Whether a bad pixel is in the small aperture."""
    half = int(SMALL_PX) + 1
    step = np.arange(-half, half + 1)
    rows = np.clip(np.rint(y_S).astype(np.intp)[:, None] + step, 0, pixels.shape[0] - 1)
    columns = np.clip(np.rint(x_S).astype(np.intp)[:, None] + step, 0, pixels.shape[1] - 1)
    patch = pixels.mask_YX[rows[:, :, None], columns[:, None, :]] & SPOILING
    return np.asarray((patch * (np.hypot(step[:, None], step) <= half)).any(axis=(1, 2)))


def _mode(values: Floats) -> float:
    """Middle of the shortest interval that holds half of the values."""
    ordered = np.sort(values)
    half = (len(ordered) + 1) // 2
    start = int(np.argmin(ordered[half - 1 :] - ordered[: len(ordered) - half + 1]))
    return float((ordered[start] + ordered[start + half - 1]) / 2)


@dataclass(frozen=True, slots=True)
class _Apertures:
    """Counts in three circles about each star, and the errors of the last two."""

    core_S: Floats
    small_S: Floats
    whole_S: Floats
    error_S: Floats
    whole_error_S: Floats
    """Of the largest circle, the star's own photons, which the smaller ones share, left out."""


def _measure(pixels: FpcPixels, x_S: Floats, y_S: Floats) -> _Apertures:
    sums_SR, area_SR, n_ring_S, spread_S = _apertures(pixels.counts_YX, pixels.sky_YX, x_S, y_S, RADII_PX, *SKY_PX)
    core_S, small_S, whole_S = sums_SR.T
    photons_S = np.maximum(small_S, 0) / pixels.calibration.gain_e_per_count
    # pi / 2: the variance of a median over that of a mean
    ring_SR = spread_S[:, None] ** 2 * area_SR * (1 + np.pi / 2 * area_SR / np.maximum(n_ring_S, 1)[:, None])
    error_S = np.sqrt(photons_S + ring_SR[:, 1])
    return _Apertures(core_S, small_S, whole_S, np.maximum(error_S, 1e-3), np.sqrt(ring_SR[:, 2]) + 1e-3)


def _aperture_correction(apertures: _Apertures, frame: Frame) -> tuple[float, float]:
    """Whole star over small aperture, and its relative error: from bright stars, or else from the width of the PSF."""
    bright_S = apertures.small_S > BRIGHT_SNR * apertures.error_S
    if bright_S.sum() < MIN_BRIGHT:
        width = np.array(frame.calibration.psf_fwhm_arcsec)
        return float(aperture_fraction(WHOLE_ARCSEC, width) / aperture_fraction(SMALL_ARCSEC, width)), PSF_MODEL_ERROR
    ratio_S = (apertures.whole_S / apertures.small_S)[bright_S]
    factor, error, _ = robust_mean(ratio_S, (apertures.whole_error_S / apertures.small_S)[bright_S])
    return factor, error / factor


@compiled
def _apertures(
    counts_YX: NDArray[np.float32],
    sky_YX: NDArray[np.float32],
    x_S: Floats,
    y_S: Floats,
    radii_R: Floats,
    inner: float,
    outer: float,
) -> tuple[Floats, Floats, Floats, Floats]:
    """Per star: counts in each circle above the ring's median, areas, pixels of the ring and their scatter.

    A pixel on a circle counts with the part of it that a straight edge through it would leave inside.
    """
    height, width = counts_YX.shape
    sums_SR, area_SR = np.zeros((x_S.size, radii_R.size)), np.zeros((x_S.size, radii_R.size))
    n_ring_S, spread_S = np.zeros(x_S.size), np.zeros(x_S.size)
    reach = int(outer) + 1
    ring = np.empty((2 * reach + 1) ** 2)
    for s in range(x_S.size):
        y0, x0 = int(np.rint(y_S[s])), int(np.rint(x_S[s]))
        n_ring = 0
        for y in range(max(y0 - reach, 0), min(y0 + reach + 1, height)):
            for x in range(max(x0 - reach, 0), min(x0 + reach + 1, width)):
                squared = (y - y_S[s]) ** 2 + (x - x_S[s]) ** 2
                if squared >= outer * outer:
                    continue
                value = counts_YX[y, x] - sky_YX[y, x]
                if squared > inner * inner:
                    ring[n_ring] = value
                    n_ring += 1
                    continue
                distance = np.sqrt(squared)
                for r in range(radii_R.size):
                    part = min(max(radii_R[r] + 0.5 - distance, 0.0), 1.0)
                    sums_SR[s, r] += part * value
                    area_SR[s, r] += part
        if n_ring:
            level = np.median(ring[:n_ring])
            spread_S[s] = 1.4826 * np.median(np.abs(ring[:n_ring] - level))
            sums_SR[s] -= area_SR[s] * level
        n_ring_S[s] = n_ring
    return sums_SR, area_SR, n_ring_S, spread_S
