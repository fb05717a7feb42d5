"""Galaxies as mixtures of Gaussians, which a PSF of Gaussians convolves without an FFT.

The idea is that of Hogg & Lang 2013 (PASP 125, 719); the weights are found here, by non-negative least squares on the
light in rings.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import gamma, gammaincinv

from pipeline.simulate.conditions import DoubleGaussian

Floats = NDArray[np.float64]
WIDTHS: Final = np.geomspace(0.01, 8.0, 18)
"""σ of the components, in half-light radii."""


@cache
def sersic_mixture(index: float) -> tuple[Floats, Floats]:
    """(share of the flux, σ in half-light radii) of the components of a Sersic profile, those of no weight left out."""
    radius = np.geomspace(1e-3, 25.0, 600)
    ring = np.gradient(np.pi * radius**2)
    scale = gammaincinv(2 * index, 0.5)
    total = 2 * np.pi * index * scale ** (-2 * index) * gamma(2 * index)
    profile = np.exp(-scale * radius ** (1 / index)) / total
    gaussians = np.exp(-0.5 * (radius[:, None] / WIDTHS) ** 2) / (2 * np.pi * WIDTHS**2)
    weight = np.sqrt(ring)[:, None]
    share, _ = nnls(gaussians * weight, profile * weight[:, 0])
    kept = share > 0
    return share[kept] / share.sum(), WIDTHS[kept]


def add_galaxy(
    image_RC: NDArray[np.float32],
    psf: DoubleGaussian,
    row: float,
    col: float,
    flux: float,
    *,
    radius_px: float,
    sersic: float,
    axis_ratio: float,
    angle_rad: float,
) -> None:
    """Add a galaxy at (row, col), 0 at the image's corner.

    `radius_px` is that of the circle of the same area; `angle_rad` runs from columns to rows. The PSF has the
    pixel in it.
    """
    share_K, width_K = sersic_mixture(sersic)
    height, width = image_RC.shape
    y, x = np.arange(height) + (0.5 - row), np.arange(width) + (0.5 - col)
    cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
    along_RC = ((x[None, :] * cosine + y[:, None] * sine) ** 2).astype(np.float32)
    across_RC = ((y[:, None] * cosine - x[None, :] * sine) ** 2).astype(np.float32)
    narrow = 2 * np.pi * psf.sigma1_px**2 / psf.area_px
    for part, sigma in ((narrow, psf.sigma1_px), (1 - narrow, psf.sigma2_px)):
        for share, own in zip(share_K.tolist(), (width_K * radius_px).tolist(), strict=True):
            major, minor = own**2 / axis_ratio + sigma**2, own**2 * axis_ratio + sigma**2
            peak = np.float32(flux * part * share / (2 * np.pi * np.sqrt(major * minor)))
            image_RC += peak * np.exp(along_RC * np.float32(-0.5 / major) + across_RC * np.float32(-0.5 / minor))
