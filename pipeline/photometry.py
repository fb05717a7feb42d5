"""Aperture photometry at the middle of aligned thumbnails.

Shapes: M images of H × W pixels.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import sep
from numpy.typing import NDArray

from pipeline.sequences import MaskBit

Floats = NDArray[np.float64]

ANY_MASK: Final = MaskBit.INTERP | MaskBit.SATUR | MaskBit.CR | MaskBit.GHOST | MaskBit.UNCOVERED
SIGMA_RATIO: Final = 2.3
"""Typical psf_sigma2_2G / psf_sigma1_2G: 2.0 to 2.6 in psField of runs 94, 4192 and 6377."""
WING: Final = 0.08
"""Typical psf_b_2G, peak of the wide Gaussian over peak of the narrow one: 0.04 to 0.14 in the same files."""


def aperture_fluxes(
    image_MHW: NDArray[np.float32],
    variance_MHW: NDArray[np.float32],
    mask_MHW: NDArray[np.uint8],
    *,
    pixel_scale_arcsec: float,
    radius_arcsec: float = 3.0,
    bad: MaskBit = ANY_MASK,
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Sum each image in a circle about its middle, where the object is, with exact pixel overlaps.

    Parameters
    ----------
    image_MHW, variance_MHW
        Flux per pixel [nMgy], sky-subtracted, and the variance of independent pixels [nMgy²]
        (`Sequence.independent_variance`); NaN where not covered.
    mask_MHW
        Bits of `MaskBit`.
    bad
        Pixels with any of these bits spoil an aperture that they touch.

    Returns
    -------
    flux_nmgy_M, error_nmgy_M, ok_M
        Flux in the aperture, not corrected for what lies outside it, its error from the variance, and
        whether the whole aperture lies inside the image on good pixels. Where it does not, SEP scales
        the flux of the good part to the whole circle: an estimate to look at, not to use.
    """
    n_images, height, width = image_MHW.shape
    unusable_MHW = ((mask_MHW & int(bad)) > 0) | ~np.isfinite(image_MHW) | ~np.isfinite(variance_MHW)
    flux_M, error_M, ok_M = np.empty(n_images), np.empty(n_images), np.empty(n_images, dtype=bool)
    for m in range(n_images):
        flux, error, flag = sep.sum_circle(
            np.nan_to_num(image_MHW[m]),
            [(width - 1) / 2],
            [(height - 1) / 2],
            radius_arcsec / pixel_scale_arcsec,
            var=np.nan_to_num(variance_MHW[m]),
            mask=unusable_MHW[m],
            subpix=0,
        )
        flux_M[m], error_M[m], ok_M[m] = flux[0], error[0], flag[0] == 0
    return flux_M, error_M, ok_M


def aperture_fraction(
    radius_arcsec: float, psf_width_arcsec: Floats, *, sigma_ratio: float = SIGMA_RATIO, wing: float = WING
) -> Floats:
    """Part of a point source's flux inside a circle about it, for a double-Gaussian PSF.

    Parameters
    ----------
    psf_width_arcsec
        Effective width as SDSS has it: that of the single Gaussian (its FWHM) with the same
        noise-equivalent area (ΣI)² / ΣI²; `psf_width` of psField is that to 1 %.
    sigma_ratio, wing
        psf_sigma2_2G / psf_sigma1_2G and psf_b_2G
        (https://data.sdss.org/datamodel/files/PHOTO_REDUX/RERUN/RUN/objcs/CAMCOL/psField.html). With the
        typical shape instead of a frame's own the fraction is good to 1.3 % at 3″ (15 real frames).
    """
    ratio2 = sigma_ratio**2
    area = (1 + wing * ratio2) ** 2 / (1 + wing**2 * ratio2 + 4 * wing * ratio2 / (1 + ratio2))
    sigma1_squared = np.asarray(psf_width_arcsec, dtype=np.float64) ** 2 / (8 * np.log(2) * area)
    narrow = -np.expm1(-(radius_arcsec**2) / (2 * sigma1_squared))
    wide = -np.expm1(-(radius_arcsec**2) / (2 * sigma1_squared * ratio2))
    return np.asarray((narrow + wing * ratio2 * wide) / (1 + wing * ratio2))
