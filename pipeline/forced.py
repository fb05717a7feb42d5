"""Forced photometry: the flux at an object's position in each of its images, whether anything is seen there or not.

Fluxes are total: thumbnails are not differences, so that a host galaxy is in them. What varies is the object.
M images of one object in time order, H × W pixels each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.lightcurves import PhotometryFlag
from pipeline.photometry import (
    ANY_MASK,
    RADIUS_ARCSEC,
    Floats,
    aperture_fluxes,
    aperture_fraction,
    middle,
    psf_profile,
    touched_bits,
    usable_pixels,
)
from pipeline.sequences import MaskBit, Sequence

REACH_ARCSEC: Final = 6.3
"""How far from the middle a PSF is fitted: the edge of a thumbnail of 32 px."""
ANNULUS_ARCSEC: Final = (5.0, REACH_ARCSEC)
"""Where the local background is taken from."""
MIN_ANNULUS_PIXELS: Final = 50
"""Of some 290."""
BEYOND_LIMIT: Final = 4
"""Bit of `zp_flags`, as `pipeline.zeropoints` has it, which needs all that cutting needs."""
MIN_LEFT: Final = 0.5
"""Least part of the PSF fit's weight that must lie on usable pixels."""


@dataclass(frozen=True, slots=True)
class Images:
    """What is measured: images of one object, and the width of a point source in each."""

    image_MHW: NDArray[np.float32]
    """Sky-subtracted flux per pixel [nMgy]; NaN where not covered."""
    variance_MHW: NDArray[np.float32]
    """Of independent pixels [nMgy²]."""
    mask_MHW: NDArray[np.uint8]
    pixel_scale_arcsec: float
    psf_width_arcsec_M: Floats
    """Effective width, as `aperture_fraction` has it; 1 where it is not known."""
    psf_known_M: NDArray[np.bool_]


def images_of(sequence: Sequence) -> Images:
    """The images of a sequence with the variance that sums over pixels need."""
    known_M = np.isfinite(sequence.psf_fwhm_arcsec) & (sequence.psf_fwhm_arcsec > 0)
    return Images(
        image_MHW=sequence.image,
        variance_MHW=sequence.independent_variance,
        mask_MHW=sequence.mask,
        pixel_scale_arcsec=sequence.pixel_scale_arcsec,
        psf_width_arcsec_M=np.where(known_M, sequence.psf_fwhm_arcsec, 1.0).astype(np.float64),
        psf_known_M=known_M,
    )


@dataclass(frozen=True, slots=True)
class Background:
    """What an annulus about the object says of the light that is not the object's."""

    level_nmgy_M: Floats
    """Median of the usable pixels; NaN where there are fewer than MIN_ANNULUS_PIXELS."""
    variance_nmgy2_M: Floats
    """Of the level."""
    own_light_M: Floats
    """Part of the object's own flux in a pixel of the annulus, on average: as much of it is in the level."""


def local_background(images: Images) -> Background:
    """The level per pixel in an annulus about the middle."""
    shape = images.image_MHW.shape[1:]
    row_H, column_W = (np.arange(length) - (length - 1) / 2 for length in shape)
    distance_HW = np.hypot(row_H[:, None], column_W) * images.pixel_scale_arcsec
    ring_HW = (distance_HW >= ANNULUS_ARCSEC[0]) & (distance_HW <= ANNULUS_ARCSEC[1])
    image_MP, variance_MP = images.image_MHW[:, ring_HW], images.variance_MHW[:, ring_HW]
    usable_MP = usable_pixels(image_MP, variance_MP, images.mask_MHW[:, ring_HW])
    n_M = usable_MP.sum(axis=1)
    level_M = np.full(len(n_M), np.nan)
    for m in np.flatnonzero(n_M >= MIN_ANNULUS_PIXELS):
        level_M[m] = np.median(image_MP[m, usable_MP[m]].astype(np.float64))
    total_M = np.where(usable_MP, variance_MP, 0).sum(axis=1, dtype=np.float64)
    profile_MHW = psf_profile(shape, images.psf_width_arcsec_M, pixel_scale_arcsec=images.pixel_scale_arcsec)
    n_M = np.maximum(n_M, 1)
    return Background(
        level_nmgy_M=level_M,
        variance_nmgy2_M=np.pi / 2 * total_M / n_M**2,
        own_light_M=(profile_MHW[:, ring_HW] * usable_MP).sum(axis=1) / n_M,
    )


def point_source_aperture(
    images: Images, background: Background | None = None
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """`aperture_fluxes` within RADIUS_ARCSEC, corrected for the part of a point source that lies outside."""
    scale = images.pixel_scale_arcsec
    flux_M, error_M, ok_M = aperture_fluxes(
        images.image_MHW, images.variance_MHW, images.mask_MHW, pixel_scale_arcsec=scale
    )
    inside_M = aperture_fraction(RADIUS_ARCSEC, images.psf_width_arcsec_M)
    if background is not None:
        area = np.pi * (RADIUS_ARCSEC / scale) ** 2
        flux_M = flux_M - area * background.level_nmgy_M
        error_M = np.sqrt(error_M**2 + area**2 * background.variance_nmgy2_M)
        inside_M = inside_M - area * background.own_light_M
    return flux_M / inside_M, error_M / inside_M, ok_M


def psf_fluxes(images: Images, background: Background | None = None) -> tuple[Floats, Floats, Floats]:
    """Flux of a point source in the middle of each image, by least squares with `psf_profile`.

    All usable pixels count alike. Weights from the variance, which follows the light that was measured, would draw
    every flux down by the same amount and make the scale depend on how bright the object is. The error is that of the
    sum that is taken, from the variance.

    Returns
    -------
    flux_nmgy_M, error_nmgy_M, left_M
        Total flux, its error, and the part of the fit's weight that lies on usable pixels. Fluxes are NaN where that
        is 0.
    """
    box = middle(images.image_MHW.shape[1:], REACH_ARCSEC / images.pixel_scale_arcsec)
    image_MHW, variance_MHW = images.image_MHW[box], images.variance_MHW[box]
    usable_MHW = usable_pixels(image_MHW, variance_MHW, images.mask_MHW[box])
    profile_MHW = psf_profile(
        image_MHW.shape[1:], images.psf_width_arcsec_M, pixel_scale_arcsec=images.pixel_scale_arcsec
    )
    everywhere_M = _sum(profile_MHW, profile_MHW)
    profile_MHW *= usable_MHW
    power_M = _sum(profile_MHW, profile_MHW)
    sum_M = _sum(profile_MHW, np.where(usable_MHW, image_MHW, 0))
    variance_M = _sum(profile_MHW**2, np.where(usable_MHW, variance_MHW, 0))
    scale_M = np.where(power_M > 0, power_M, np.nan)
    if background is not None:
        light_M = profile_MHW.sum(axis=(1, 2))
        sum_M = sum_M - light_M * background.level_nmgy_M
        variance_M = variance_M + light_M**2 * background.variance_nmgy2_M
        scale_M = scale_M - light_M * background.own_light_M
    return sum_M / scale_M, np.sqrt(variance_M) / scale_M, power_M / everywhere_M


def _sum(one_MHW: Floats, other_MHW: NDArray[np.floating]) -> Floats:
    """Sum of the product over each image."""
    return np.asarray(np.einsum("mhw,mhw->m", one_MHW, other_MHW, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class ForcedPhotometry:
    """Total fluxes of one object [nMgy], NaN where they cannot be had; `flags_M` says why."""

    aperture_flux_M: Floats
    aperture_error_M: Floats
    psf_flux_M: Floats
    psf_error_M: Floats
    psf_left_M: Floats
    flags_M: NDArray[np.uint8]


def forced_photometry(sequence: Sequence, *, subtract_background: bool = False) -> ForcedPhotometry:
    """Measure all images of one object.

    Parameters
    ----------
    subtract_background
        Take off the level of an annulus about the object. A host galaxy that reaches it is taken off in part.
    """
    images = images_of(sequence)
    background = local_background(images) if subtract_background else None
    aperture_M, aperture_error_M, whole_M = point_source_aperture(images, background)
    psf_M, psf_error_M, left_M = psf_fluxes(images, background)
    known_M = images.psf_known_M & (True if background is None else np.isfinite(background.level_nmgy_M))
    aperture_ok_M, psf_ok_M = whole_M & known_M, (left_M >= MIN_LEFT) & known_M
    return ForcedPhotometry(
        aperture_flux_M=np.where(aperture_ok_M, aperture_M, np.nan),
        aperture_error_M=np.where(aperture_ok_M, aperture_error_M, np.nan),
        psf_flux_M=np.where(psf_ok_M, psf_M, np.nan),
        psf_error_M=np.where(psf_ok_M, psf_error_M, np.nan),
        psf_left_M=left_M,
        flags_M=_flags(sequence, images, left_M, background),
    )


def _flags(sequence: Sequence, images: Images, left_M: Floats, background: Background | None) -> NDArray[np.uint8]:
    bits_M, inside = touched_bits(images.mask_MHW, images.pixel_scale_arcsec)
    level_M = np.zeros(len(sequence)) if background is None else background.level_nmgy_M
    conditions = {
        PhotometryFlag.MASKED: (bits_M & np.uint8(ANY_MASK ^ MaskBit.UNCOVERED)) > 0,
        PhotometryFlag.UNCOVERED: ((bits_M & np.uint8(MaskBit.UNCOVERED)) > 0) | (not inside),
        PhotometryFlag.PSF_UNKNOWN: ~images.psf_known_M,
        PhotometryFlag.PSF_LOST: left_M < MIN_LEFT,
        PhotometryFlag.ZEROPOINT: (sequence.zp_flags & np.uint8(BEYOND_LIMIT)) > 0,
        PhotometryFlag.NO_BACKGROUND: np.isnan(level_M),
    }
    flags_M = np.zeros(len(sequence), dtype=np.uint8)
    for flag, holds_M in conditions.items():
        flags_M[holds_M] |= np.uint8(flag.value)
    return flags_M
