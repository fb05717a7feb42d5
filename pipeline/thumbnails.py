"""Aligned thumbnails: the pixels of a frame on the North-up, East-left grid of each target.

All epochs and bands of one object share one gnomonic (TAN) grid centred on it, so that differences
between nights are the sky's. T targets, H × W pixels of the thumbnail; Y × X pixels of the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from pipeline import spline
from pipeline.astrometry import Solution
from pipeline.frame import Frame, Window
from pipeline.sequences import MaskBit
from pipeline.survey import ThumbnailConfig

Floats = NDArray[np.float64]

MAX_AFFINE_PX: Final = 64
"""Largest thumbnail whose pixels are placed by an affine map; beyond, the camera's distortion is felt."""
MASK_REACH: Final = 0.01
"""A pixel carries the bits of every flagged one that has more than this weight in it."""
NOISE_TAPS: Final = slice(1, 9)
"""Of the cardinal spline's ten: what is left out is 6e-4 of the variance at most."""
NOT_INTERPOLATED: Final = MaskBit.SATUR | MaskBit.UNCOVERED
"""Pixels whose values would ring through the kernel. The survey has interpolated over cosmic rays and bad columns."""


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Thumbnails of T targets cut from one frame."""

    image_THW: NDArray[np.float32]
    """Flux per output pixel [nMgy]; NaN where the frame does not cover."""
    variance_THW: NDArray[np.float32]
    """Of each pixel by itself [nMgy²]; NaN where the frame does not cover."""
    mask_THW: NDArray[np.uint8]
    noise_factor_T: NDArray[np.float32]
    """Variance of a pixel over that of independent pixels, mean of the covered ones; NaN where nothing is covered."""
    coverage_T: NDArray[np.float32]
    x_pix_T: Floats
    y_pix_T: Floats
    """The target in the frame, 0 at the centre of the first pixel."""
    mjd_tai_T: Floats


def target_wcs(ra_deg: float, dec_deg: float, *, size: int, pixel_scale_arcsec: float) -> WCS:
    """The common grid of one object: TAN, North up, East left, the object at the middle."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = ra_deg, dec_deg
    wcs.wcs.crpix = (size + 1) / 2, (size + 1) / 2
    wcs.wcs.cdelt = -pixel_scale_arcsec / 3600, pixel_scale_arcsec / 3600
    wcs.wcs.cunit = "deg", "deg"
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs


def target_wcs_header(ra_deg: float, dec_deg: float, *, size: int, pixel_scale_arcsec: float) -> str:
    """`target_wcs` as a FITS header string."""
    header: fits.Header = target_wcs(ra_deg, dec_deg, size=size, pixel_scale_arcsec=pixel_scale_arcsec).to_header()
    return str(header.tostring(sep="\n"))


def cut_thumbnails(frame: Frame, ra_deg_T: Floats, dec_deg_T: Floats, config: ThumbnailConfig) -> Thumbnails:
    """Resample `frame` onto the grid of each target.

    Flux is conserved: values are multiplied by the ratio of pixel areas. The variance is propagated with the kernel, so
    that it is that of each pixel by itself; interpolation correlates pixels, and what they would have if they were
    independent, as a sum over an aperture needs it, is variance / noise factor.

    A mask bit covers every pixel into which a flagged one enters with over 1 %. Saturated pixels do not enter their
    neighbours: a smooth fill stands in for them, and within a pixel of them the image is interpolated linearly, which
    cannot ring. Within a pixel of one that is not a number the thumbnail is not covered.
    """
    affine_T23 = grid_affine(frame.solution, ra_deg_T, dec_deg_T, config)
    x_pix_T, y_pix_T = frame.world_to_pixel(ra_deg_T, dec_deg_T)
    shape = (len(ra_deg_T), config.size, config.size)
    image_THW = np.empty(shape, dtype=np.float32)
    variance_THW = np.empty(shape, dtype=np.float32)
    mask_THW = np.empty(shape, dtype=np.uint8)
    noise_factor_T = np.empty(shape[0], dtype=np.float32)
    for target, (affine_23, ra_deg, dec_deg) in enumerate(zip(affine_T23, ra_deg_T, dec_deg_T, strict=True)):
        position_2HW = _positions(frame.solution, affine_23, ra_deg, dec_deg, config)
        planes = _resample(frame, position_2HW, abs(_determinant(affine_23)), spline.ORDER[config.kernel])
        image_THW[target], variance_THW[target], mask_THW[target], noise_factor_T[target] = planes
    covered_THW = (mask_THW & MaskBit.UNCOVERED) == 0
    return Thumbnails(
        image_THW=image_THW,
        variance_THW=variance_THW,
        mask_THW=mask_THW,
        noise_factor_T=noise_factor_T,
        coverage_T=covered_THW.mean(axis=(1, 2), dtype=np.float32),
        x_pix_T=x_pix_T,
        y_pix_T=y_pix_T,
        mjd_tai_T=frame.mjd_tai(y_pix_T),
    )


def grid_affine(solution: Solution, ra_deg_T: Floats, dec_deg_T: Floats, config: ThumbnailConfig) -> Floats:
    """Affine map from thumbnail (row, column) to frame (y, x) of each target, shape T × 2 × 3.

    Fitted to nine nodes of the grid: over the 13″ of a thumbnail the map differs from an affine one by
    less than 1e-3 px (the camera's distortion; TAN alone 1e-5), and one call of the astrometric solution
    serves all targets.
    """
    node = np.linspace(0, config.size - 1, 3)
    row_9, column_9 = (axis.ravel() for axis in np.meshgrid(node, node, indexing="ij"))
    middle = (config.size - 1) / 2
    step_deg = config.pixel_scale_arcsec / 3600
    ra_T9, dec_T9 = _gnomonic(ra_deg_T, dec_deg_T, -(column_9 - middle) * step_deg, (row_9 - middle) * step_deg)
    x_T9, y_T9 = solution.world_to_pixel(ra_T9, dec_T9)
    fit_39 = np.linalg.pinv(np.column_stack([row_9, column_9, np.ones(9)]))
    # Summed row by row: a matrix product rounds differently with the number of targets, and an object's
    # thumbnails must not change by one bit with its neighbours.
    return np.stack([(axis_T9[:, None, :] * fit_39).sum(axis=2) for axis_T9 in (y_T9, x_T9)], axis=1)


def rows_looked_at(
    solution: Solution, ra_deg_T: Floats, dec_deg_T: Floats, config: ThumbnailConfig, shape: tuple[int, int]
) -> list[slice]:
    """Rows, of a frame of this shape, that `cut_thumbnails` will look at for each target."""
    affine_T23 = grid_affine(solution, ra_deg_T, dec_deg_T, config)
    places = zip(affine_T23, ra_deg_T, dec_deg_T, strict=True)
    return [_crop(_positions(solution, *place, config)[0].ravel(), shape[0]) for place in places]


def _gnomonic(ra_deg_T: Floats, dec_deg_T: Floats, xi_deg_P: Floats, eta_deg_P: Floats) -> tuple[Floats, Floats]:
    """Sky position of tangent-plane offsets (xi East, eta North) around each target, T × P.

    Source: Calabretta & Greisen 2002, A&A 395, 1077, Sect. 5.1.3.
    """
    ra, dec = np.deg2rad(ra_deg_T)[:, None], np.deg2rad(dec_deg_T)[:, None]
    xi, eta = np.deg2rad(xi_deg_P), np.deg2rad(eta_deg_P)
    depth = np.cos(dec) - eta * np.sin(dec)
    ra_TP = ra + np.arctan2(xi, depth)
    dec_TP = np.arctan2(np.sin(dec) + eta * np.cos(dec), np.hypot(xi, depth))
    return np.rad2deg(ra_TP), np.rad2deg(dec_TP)


def _determinant(affine_23: Floats) -> float:
    """Area of a thumbnail's pixel on the frame [px²]."""
    return float(affine_23[0, 0] * affine_23[1, 1] - affine_23[0, 1] * affine_23[1, 0])


def _positions(solution: Solution, affine_23: Floats, ra_deg: float, dec_deg: float, config: ThumbnailConfig) -> Floats:
    """Where the thumbnail's pixels are on the frame, (y, x) × H × W."""
    index = np.arange(config.size, dtype=np.float64)
    if config.size <= MAX_AFFINE_PX:
        return np.stack([m[0] * index[:, None] + (m[1] * index + m[2]) for m in affine_23])
    offset_deg = (index - (config.size - 1) / 2) * config.pixel_scale_arcsec / 3600
    eta_deg, xi_deg = (axis.ravel() for axis in np.meshgrid(offset_deg, -offset_deg, indexing="ij"))
    x, y = solution.world_to_pixel(*_gnomonic(np.array([ra_deg]), np.array([dec_deg]), xi_deg, eta_deg))
    return np.stack([y, x]).reshape(2, config.size, config.size)


def _resample(
    frame: Frame, position_2HW: Floats, area: float, order: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8], float]:
    """Image, variance, mask and noise factor of one target."""
    shape, (height, width) = position_2HW.shape[1:], frame.pixels.shape
    y_N, x_N = position_2HW.reshape(2, -1)
    off_N = ~((y_N >= -0.5) & (y_N <= height - 0.5) & (x_N >= -0.5) & (x_N <= width - 0.5))
    if off_N.all():
        nothing = np.full(shape, np.nan, dtype=np.float32)
        return nothing, nothing.copy(), np.full(shape, MaskBit.UNCOVERED, dtype=np.uint8), np.nan
    rows, columns = _crop(y_N, height), _crop(x_N, width)
    window = frame.pixels.window(rows, columns)
    y_N, x_N = y_N - rows.start, x_N - columns.start
    flags_YX = _flags(window)
    image_N = _image(window, flags_YX, y_N, x_N, order)
    variance_N, factor_N = _variance(window, flags_YX, y_N, x_N, order)
    mask_N = _mask(flags_YX, y_N, x_N, order)
    mask_N[off_N | ((mask_N & MaskBit.UNCOVERED) > 0)] = MaskBit.UNCOVERED
    uncovered_N = mask_N == MaskBit.UNCOVERED
    image_N[uncovered_N] = variance_N[uncovered_N] = np.nan
    factor = float(factor_N[~uncovered_N].mean()) if not uncovered_N.all() else np.nan
    image_HW, variance_HW = (
        plane_N.astype(np.float32).reshape(shape) for plane_N in (image_N * area, variance_N * area**2)
    )
    return image_HW, variance_HW, mask_N.reshape(shape), factor


def _flags(window: Window) -> NDArray[np.uint8]:
    """The window's mask; what is not a finite number counts as not covered."""
    unknown_YX = ~np.isfinite(window.image_YX + window.variance_YX)
    return np.asarray(window.mask_YX | unknown_YX * np.uint8(MaskBit.UNCOVERED))


def _image(window: Window, flags_YX: NDArray[np.uint8], y_N: Floats, x_N: Floats, order: int) -> Floats:
    """Flux at each position; saturated pixels and those that are no numbers keep out of their neighbours."""
    samples_YX = window.image_YX.astype(np.float64)
    unusable_YX = (flags_YX & NOT_INTERPOLATED) > 0
    if not unusable_YX.any():
        spline.prefilter(samples_YX, np.array(spline.POLES[order]))
        return spline.evaluate(samples_YX, y_N, x_N, order)
    as_read_YX = samples_YX.copy()
    spline.fill(as_read_YX, (flags_YX & MaskBit.UNCOVERED) > 0)
    spline.fill(samples_YX, unusable_YX)
    spline.prefilter(samples_YX, np.array(spline.POLES[order]))
    image_N = spline.evaluate(samples_YX, y_N, x_N, order)
    beside_N = (spline.touched_bits(flags_YX, y_N, x_N) & MaskBit.SATUR) > 0
    image_N[beside_N] = spline.evaluate(as_read_YX, y_N[beside_N], x_N[beside_N], min(order, 1))
    return image_N


def _variance(
    window: Window, flags_YX: NDArray[np.uint8], y_N: Floats, x_N: Floats, order: int
) -> tuple[Floats, Floats]:
    """Variance at each position, and what it would be if that of every pixel of the frame were 1."""
    variance_YX = np.ascontiguousarray(window.variance_YX, dtype=np.float32)
    if (flags_YX & MaskBit.UNCOVERED).any():
        variance_YX = np.nan_to_num(variance_YX, nan=0.0, posinf=0.0, neginf=0.0)
    if order == 0:
        return spline.evaluate(variance_YX.astype(np.float64), y_N, x_N, 0), np.ones(y_N.size)
    return spline.propagate(variance_YX, y_N, x_N, _noise_kernel(order))


@cache
def _noise_kernel(order: int) -> Floats:
    return np.ascontiguousarray(spline.cardinal(order)[:, NOISE_TAPS])


def _mask(flags_YX: NDArray[np.uint8], y_N: Floats, x_N: Floats, order: int) -> NDArray[np.uint8]:
    """Bits at each position: all that reach it, and UNCOVERED where it touches what is not covered."""
    if not flags_YX.any():
        return np.zeros(y_N.size, dtype=np.uint8)
    known_YX = flags_YX & ~np.uint8(MaskBit.UNCOVERED)
    mask_N = spline.reached_bits(known_YX, y_N, x_N, spline.cardinal(order), MASK_REACH)
    return mask_N | (spline.touched_bits(flags_YX, y_N, x_N) & np.uint8(MaskBit.UNCOVERED))


def _crop(position_N: Floats, size: int) -> slice:
    """The part of an axis that the thumbnail can feel: its own extent and the prefilter's reach."""
    first = min(max(int(position_N.min()) - spline.REACH_PX, 0), size - 1)
    last = max(min(int(position_N.max()) + spline.REACH_PX + 2, size), first + 1)
    return slice(first, last)


def reference_image(
    image_YX: NDArray[np.float32], wcs: WCS, ra_deg: float, dec_deg: float, config: ThumbnailConfig
) -> NDArray[np.float64]:
    """The image of one target through `reproject`: slow, general, and what `cut_thumbnails` is tested against."""
    from reproject import reproject_interp

    target = target_wcs(ra_deg, dec_deg, size=config.size, pixel_scale_arcsec=config.pixel_scale_arcsec)
    shape = (config.size, config.size)
    order = spline.ORDER[config.kernel]
    resampled, _ = reproject_interp((image_YX, wcs), target, shape_out=shape, order=order)
    area = target.proj_plane_pixel_area() / wcs.proj_plane_pixel_area()
    return np.asarray(resampled * float(area))
