"""Aperture photometry at the middle of aligned thumbnails, and the profile of a point source.

Shapes: M images of H × W pixels.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Final, TypeVar

import numpy as np
import sep
from numpy.typing import NDArray

from pipeline.sequences import MaskBit

Floats = NDArray[np.float64]
T = TypeVar("T", bound=np.generic)

RADIUS_ARCSEC: Final = 3.0
"""Of the aperture of a light curve."""
ANY_MASK: Final = MaskBit.INTERP | MaskBit.SATUR | MaskBit.CR | MaskBit.GHOST | MaskBit.UNCOVERED
SIGMA_RATIO: Final = 2.3
"""Typical psf_sigma2_2G / psf_sigma1_2G: 2.0 to 2.6 in psField of runs 94, 4192 and 6377."""
WING: Final = 0.08
"""Typical psf_b_2G, peak of the wide Gaussian over peak of the narrow one: 0.04 to 0.14 in the same files."""
MATCHED_FWHM_ARCSEC: Final = 2.8
"""Of the Gaussian that weights the sky in `matched_weights`. Twice a typical PSF's: noise is least near √2."""
MATCHED_TERMS: Final = 12
"""Of the series in `matched_weights`; what is left of it is 3e-5."""


def usable_pixels(
    image_MHW: NDArray[np.float32],
    variance_MHW: NDArray[np.float32],
    mask_MHW: NDArray[np.uint8],
    bad: MaskBit = ANY_MASK,
) -> NDArray[np.bool_]:
    """Pixels that are numbers and have none of the bits of `bad`."""
    return np.asarray(((mask_MHW & np.uint8(bad)) == 0) & np.isfinite(image_MHW) & np.isfinite(variance_MHW))


def aperture_fluxes(
    image_MHW: NDArray[np.float32],
    variance_MHW: NDArray[np.float32],
    mask_MHW: NDArray[np.uint8],
    *,
    pixel_scale_arcsec: float,
    radius_arcsec: float = RADIUS_ARCSEC,
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
        whether the whole aperture lies inside the image on good pixels. Where it does not, the flux of the
        good part is scaled to the whole circle: an estimate to look at, not to use; NaN where there is none.
    """
    box = middle(image_MHW.shape[1:], radius_arcsec / pixel_scale_arcsec + 1)
    overlap_HW, whole = _circle(image_MHW.shape[1], image_MHW.shape[2], radius_arcsec / pixel_scale_arcsec)
    overlap_P = overlap_HW[box[1:]].ravel()
    image_MP, variance_MP = _flat(image_MHW[box]), _flat(variance_MHW[box])
    usable_MP = usable_pixels(image_MP, variance_MP, _flat(mask_MHW[box]), bad)
    good_M = usable_MP @ overlap_P
    scale_M = np.divide(overlap_P.sum(), good_M, out=np.full(len(good_M), np.nan), where=good_M > 0)
    flux_M = scale_M * (np.where(usable_MP, image_MP, 0) @ overlap_P)
    error_M = np.sqrt(scale_M * (np.where(usable_MP, variance_MP, 0) @ overlap_P))
    return flux_M, error_M, whole & (usable_MP | (overlap_P == 0)).all(axis=1)


def _flat(array_MHW: NDArray[T]) -> NDArray[T]:
    """M × pixels."""
    return array_MHW.reshape(len(array_MHW), array_MHW.shape[1] * array_MHW.shape[2])


def middle(shape: tuple[int, ...], reach_px: float) -> tuple[slice, slice, slice]:
    """The pixels of M images of H × W whose centres are not farther from the middle than this, along each axis."""
    height, width = shape
    rows, columns = (
        slice(max(0, math.ceil(centre - reach_px)), math.floor(centre + reach_px) + 1)
        for centre in ((height - 1) / 2, (width - 1) / 2)
    )
    return slice(None), rows, columns


def touched_bits(
    mask_MHW: NDArray[np.uint8], pixel_scale_arcsec: float, radius_arcsec: float = RADIUS_ARCSEC
) -> tuple[NDArray[np.uint8], bool]:
    """All bits of the pixels that the aperture touches, and whether it lies inside the image."""
    overlap_HW, whole = _circle(mask_MHW.shape[1], mask_MHW.shape[2], radius_arcsec / pixel_scale_arcsec)
    return np.bitwise_or.reduce(mask_MHW[:, overlap_HW > 0], axis=1), whole


@cache
def _circle(height: int, width: int, radius_px: float) -> tuple[Floats, bool]:
    """Part of each pixel inside a circle about the middle, by SEP, and whether no part of the circle is off the image.

    How much of a pixel a circle covers depends on their distance alone: one image with a single bright pixel, under
    circles at all distances, gives them all.
    """
    row_P, column_P = (axis.ravel() for axis in np.mgrid[:height, :width])
    spot = np.zeros((2 * height + 1, 2 * width + 1))
    spot[height, width] = 1
    overlap_P, _, _ = sep.sum_circle(
        spot, width + (width - 1) / 2 - column_P, height + (height - 1) / 2 - row_P, radius_px, subpix=0
    )
    overlap_HW = np.asarray(overlap_P).reshape(height, width)
    overlap_HW.setflags(write=False)
    return overlap_HW, min(height, width) / 2 >= radius_px


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
    sigma1_squared = _narrow_sigma(psf_width_arcsec, sigma_ratio, wing) ** 2
    ratio2 = sigma_ratio**2
    narrow = -np.expm1(-(radius_arcsec**2) / (2 * sigma1_squared))
    wide = -np.expm1(-(radius_arcsec**2) / (2 * sigma1_squared * ratio2))
    return np.asarray((narrow + wing * ratio2 * wide) / (1 + wing * ratio2))


def _narrow_sigma(psf_width_arcsec: Floats, sigma_ratio: float, wing: float) -> Floats:
    """Sigma of the narrow Gaussian [arcsec] of the profile with this effective width."""
    ratio2 = sigma_ratio**2
    area = (1 + wing * ratio2) ** 2 / (1 + wing**2 * ratio2 + 4 * wing * ratio2 / (1 + ratio2))
    return np.asarray(np.asarray(psf_width_arcsec, dtype=np.float64) / np.sqrt(8 * np.log(2) * area))


def psf_profile(
    shape: tuple[int, int],
    psf_width_arcsec_M: Floats,
    *,
    pixel_scale_arcsec: float,
    sigma_ratio: float = SIGMA_RATIO,
    wing: float = WING,
) -> Floats:
    """Part of a point source's flux in each pixel, the source in the middle, M × H × W.

    The same double Gaussian as in `aperture_fraction`, sampled at the pixels' centres and not integrated over them:
    what psField describes has the pixel's response in it already, and resampling keeps samples what they are.
    """
    sigma1_M = _narrow_sigma(psf_width_arcsec_M, sigma_ratio, wing) / pixel_scale_arcsec
    sigma_MG = sigma1_M[:, None] * np.array([1, sigma_ratio])
    peak_MG = np.array([1, wing]) / (2 * np.pi * sigma1_M[:, None] ** 2 * (1 + wing * sigma_ratio**2))
    return _gaussians(shape, peak_MG, sigma_MG)


def matched_weights(
    shape: tuple[int, int],
    psf_width_arcsec_M: Floats,
    *,
    pixel_scale_arcsec: float,
    sigma_ratio: float = SIGMA_RATIO,
    wing: float = WING,
) -> Floats:
    """What to weight pixels with so that all images weight the sky alike, whatever their PSF, M × H × W.

    Convolved with an image's PSF, its weights are one Gaussian of MATCHED_FWHM_ARCSEC with its peak, of 1, in the
    middle. So a point source there gives its flux, and anything else that does not vary the same in each image: a
    Gaussian-aperture-and-PSF flux (Kuijken 2008, A&A 482, 1053) for double-Gaussian PSFs.

    That Gaussian divided by the PSF, as Fourier transforms, is a geometric series of Gaussians, each wider than the
    one before. PSFs must not be wider than MATCHED_FWHM_ARCSEC.
    """
    wide = wing * sigma_ratio**2 / (1 + wing * sigma_ratio**2)
    narrow_M = (_narrow_sigma(psf_width_arcsec_M, sigma_ratio, wing) / pixel_scale_arcsec) ** 2
    common = (MATCHED_FWHM_ARCSEC / pixel_scale_arcsec) ** 2 / (8 * math.log(2))
    order_G = np.arange(MATCHED_TERMS)
    variance_MG = common - narrow_M[:, None] * (1 - order_G * (sigma_ratio**2 - 1))
    peak_MG = common / variance_MG * (-wide / (1 - wide)) ** order_G / (1 - wide)
    return _gaussians(shape, peak_MG, np.sqrt(variance_MG))


def _gaussians(shape: tuple[int, int], peak_MG: Floats, sigma_MG: Floats) -> Floats:
    """Sum over G of round Gaussians about the middle of each image, M × H × W."""
    row_MHG, column_MWG = (
        np.exp(-0.5 * ((np.arange(length) - (length - 1) / 2)[:, None] / sigma_MG[:, None, :]) ** 2) for length in shape
    )
    return np.asarray((peak_MG[:, None, :] * row_MHG) @ column_MWG.transpose(0, 2, 1))
