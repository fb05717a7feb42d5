"""What a star on thumbnails measures: its flux by a known profile, its place, its light in a circle."""

from __future__ import annotations

from functools import cache

import numpy as np
import sep
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CENTROID_STEPS = 12
WINDOW_FWHM = 3
"""Half the side of the square about the middle that counts; the window is 1e-10 beyond."""


def profile_fluxes(image_THW: NDArray[np.float32], profile_HW: Floats) -> Floats:
    """Least-squares amplitude of the profile on each thumbnail."""
    return np.asarray((image_THW.astype(np.float64) * profile_HW).sum(axis=(1, 2)) / (profile_HW**2).sum())


def centroids(image_THW: NDArray[np.float32], fwhm_px: float) -> Floats:
    """(x, y) of each star relative to the middle [px], T × 2: Gaussian-windowed, as Source Extractor's XWIN."""
    size = image_THW.shape[1]
    margin = max(int((size - 1) / 2 - WINDOW_FWHM * fwhm_px), 0)
    image_THW = image_THW[:, margin : size - margin, margin : size - margin].astype(np.float64)
    y, x = np.mgrid[margin : size - margin, margin : size - margin] - (size - 1) / 2
    sigma2, at_T2 = (fwhm_px / 2.355) ** 2, np.zeros((len(image_THW), 2))
    for _ in range(CENTROID_STEPS):
        dx, dy = (axis - place[:, None, None] for axis, place in zip((x, y), at_T2.T, strict=True))
        weight = image_THW * np.exp(-(dx**2 + dy**2) / (2 * sigma2))
        total = weight.sum(axis=(1, 2))
        with np.errstate(invalid="ignore"):  # of a thumbnail that is not covered: NaN
            at_T2 += 2 * np.stack([(weight * d).sum(axis=(1, 2)) / total for d in (dx, dy)], axis=1)
    return at_T2


def circle_sums(plane_THW: NDArray[np.float32], places: list[tuple[float, float]], radius_px: float) -> Floats:
    """Sums in circles about places relative to the middle [px], T × places, exact overlaps."""
    middle = (plane_THW.shape[1] - 1) / 2
    x, y = (np.array(axis) + middle for axis in zip(*places, strict=True))
    return np.array([sep.sum_circle(np.ascontiguousarray(plane), x, y, radius_px, subpix=0)[0] for plane in plane_THW])


@cache
def circle_weights(size: int, places: tuple[tuple[float, float], ...], radius_px: float) -> Floats:
    """Part of each pixel inside each circle, places × H × W: what `circle_sums` weighs it with.

    The variance of a sum is that of its pixels times the squares of these; an edge pixel that is half inside adds a
    quarter of its variance, where `sep` counts half: 5 % too much in all for a circle of 3″.
    """
    unit = np.eye(size * size, dtype=np.float32).reshape(-1, size, size)
    return circle_sums(unit, list(places), radius_px).T.reshape(len(places), size, size)


def spread(values: Floats) -> float:
    """Scatter that outliers do not feel: 1.4826 × the median distance from the median."""
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if len(values) else np.nan
