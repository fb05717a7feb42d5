"""Forced photometry: the flux at an object's position in each of its images, whether anything is seen there or not.

Fluxes are total: thumbnails are not differences, so that a host galaxy is in them. With matched weights it is in all
images alike, in the aperture nearly so; of a PSF fit it takes a part that grows with the PSF.
M images of one object in time order, H × W pixels each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.lightcurves import PhotometryFlag
from pipeline.photometry import (
    ANY_MASK,
    MATCHED_FWHM_ARCSEC,
    RADIUS_ARCSEC,
    Floats,
    aperture_fluxes,
    aperture_fraction,
    matched_weights,
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
MATCHED_LEFT: Final = 0.99
"""The same of matched weights: what is lost, images would lose differently."""
MATCHED_REACH_ARCSEC: Final = 6.0
"""How far to all sides an image must reach for its weights to be whole."""
EXTENDED_RATIO: Final = 0.9
"""PSF flux over aperture flux below which light is no point source's: stars of real frames have 0.92 to 0.98."""
EXTENDED_SIGMAS: Final = 3.0
"""How sure that must be."""


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
    images = _near(images)
    usable_MHW = _usable(images)
    profile_MHW = psf_profile(
        images.image_MHW.shape[1:], images.psf_width_arcsec_M, pixel_scale_arcsec=images.pixel_scale_arcsec
    )
    everywhere_M = _sum(profile_MHW, profile_MHW)
    profile_MHW *= usable_MHW
    power_M = _sum(profile_MHW, profile_MHW)
    flux_M, error_M = _weighted(images, profile_MHW, np.where(power_M > 0, power_M, np.nan), background)
    return flux_M, error_M, power_M / everywhere_M


def matched_fluxes(images: Images, background: Background | None = None) -> tuple[Floats, Floats, Floats]:
    """Flux of each image with `matched_weights`: all of a point source in the middle, and of a host the same part.

    Returns
    -------
    flux_nmgy_M, error_nmgy_M, left_M
        Flux, its error, and the part of the weight, signs apart, that lies on usable pixels; 0 where the PSF is too
        wide to be matched, or the image too small.
    """
    images = _near(images)
    shape, scale = images.image_MHW.shape[1:], images.pixel_scale_arcsec
    matching_M = images.psf_width_arcsec_M <= MATCHED_FWHM_ARCSEC
    matching_M &= min(shape) / 2 * scale >= MATCHED_REACH_ARCSEC
    width_M = np.minimum(images.psf_width_arcsec_M, MATCHED_FWHM_ARCSEC)
    weight_MHW = matched_weights(shape, width_M, pixel_scale_arcsec=scale)
    everywhere_M = np.abs(weight_MHW).sum(axis=(1, 2))
    weight_MHW *= _usable(images)
    flux_M, error_M = _weighted(images, weight_MHW, np.ones(len(width_M)), background)
    return flux_M, error_M, matching_M * np.abs(weight_MHW).sum(axis=(1, 2)) / everywhere_M


def _near(images: Images) -> Images:
    """Cut to REACH_ARCSEC about the middle."""
    box = middle(images.image_MHW.shape[1:], REACH_ARCSEC / images.pixel_scale_arcsec)
    return replace(
        images,
        image_MHW=images.image_MHW[box],
        variance_MHW=images.variance_MHW[box],
        mask_MHW=images.mask_MHW[box],
    )


def _usable(images: Images) -> NDArray[np.bool_]:
    return usable_pixels(images.image_MHW, images.variance_MHW, images.mask_MHW)


def _weighted(
    images: Images, weight_MHW: Floats, response_M: Floats, background: Background | None
) -> tuple[Floats, Floats]:
    """Flux and error by a weighted sum of pixels, of weight 0 where they cannot be used.

    `response_M` is what the sum is of a point source of unit flux.
    """
    sum_M = _sum(weight_MHW, np.where(weight_MHW == 0, 0, images.image_MHW))
    variance_M = _sum(weight_MHW**2, np.where(weight_MHW == 0, 0, images.variance_MHW))
    if background is not None:
        light_M = weight_MHW.sum(axis=(1, 2))
        sum_M = sum_M - light_M * background.level_nmgy_M
        variance_M = variance_M + light_M**2 * background.variance_nmgy2_M
        response_M = response_M - light_M * background.own_light_M
    return sum_M / response_M, np.sqrt(variance_M) / response_M


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
    matched_flux_M: Floats
    matched_error_M: Floats
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
    level_M = np.zeros(len(sequence)) if background is None else background.level_nmgy_M
    known_M = images.psf_known_M & np.isfinite(level_M)
    aperture_M, aperture_error_M, whole_M = point_source_aperture(images, background)
    psf_M, psf_error_M, psf_left_M = psf_fluxes(images, background)
    matched_M, matched_error_M, matched_left_M = matched_fluxes(images, background)
    aperture_ok_M, psf_ok_M = whole_M & known_M, (psf_left_M >= MIN_LEFT) & known_M
    matched_ok_M = aperture_ok_M & (matched_left_M >= MATCHED_LEFT)
    measured = ForcedPhotometry(
        aperture_flux_M=np.where(aperture_ok_M, aperture_M, np.nan),
        aperture_error_M=np.where(aperture_ok_M, aperture_error_M, np.nan),
        psf_flux_M=np.where(psf_ok_M, psf_M, np.nan),
        psf_error_M=np.where(psf_ok_M, psf_error_M, np.nan),
        psf_left_M=psf_left_M,
        matched_flux_M=np.where(matched_ok_M, matched_M, np.nan),
        matched_error_M=np.where(matched_ok_M, matched_error_M, np.nan),
        flags_M=_flags(sequence, images, psf_left_M, matched_left_M, level_M),
    )
    measured.flags_M[_extended(measured, sequence.band_id)] |= np.uint8(PhotometryFlag.EXTENDED)
    return measured


def _extended(measured: ForcedPhotometry, band_id_M: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether the object has more light in an image's band than a point source's.

    Of all its images in the band the median counts, so that all of them are alike.
    """
    surplus_M = EXTENDED_RATIO * measured.aperture_flux_M - measured.psf_flux_M
    error_M = np.hypot(EXTENDED_RATIO * measured.aperture_error_M, measured.psf_error_M)
    extended_M = np.zeros(len(band_id_M), dtype=np.bool_)
    for band in np.unique(band_id_M[np.isfinite(surplus_M)]):
        m = (band_id_M == band) & np.isfinite(surplus_M)
        error_of_median = np.sqrt(np.pi / 2 / m.sum()) * np.median(error_M[m])
        extended_M[band_id_M == band] = np.median(surplus_M[m]) > EXTENDED_SIGMAS * error_of_median
    return extended_M


def _flags(
    sequence: Sequence, images: Images, psf_left_M: Floats, matched_left_M: Floats, level_M: Floats
) -> NDArray[np.uint8]:
    bits_M, inside = touched_bits(images.mask_MHW, images.pixel_scale_arcsec)
    conditions = {
        PhotometryFlag.MASKED: (bits_M & np.uint8(ANY_MASK ^ MaskBit.UNCOVERED)) > 0,
        PhotometryFlag.UNCOVERED: ((bits_M & np.uint8(MaskBit.UNCOVERED)) > 0) | (not inside),
        PhotometryFlag.PSF_UNKNOWN: ~images.psf_known_M,
        PhotometryFlag.PSF_LOST: psf_left_M < MIN_LEFT,
        PhotometryFlag.ZEROPOINT: (sequence.zp_flags & np.uint8(BEYOND_LIMIT)) > 0,
        PhotometryFlag.NO_BACKGROUND: np.isnan(level_M),
        PhotometryFlag.NOT_MATCHED: matched_left_M < MATCHED_LEFT,
    }
    flags_M = np.zeros(len(sequence), dtype=np.uint8)
    for flag, holds_M in conditions.items():
        flags_M[holds_M] |= np.uint8(flag.value)
    return flags_M
