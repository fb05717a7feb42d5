"""Aligned thumbnails: the pixels of a frame on the North-up, East-left grid of each target.

All epochs and bands of one object share one gnomonic (TAN) grid centred on it, so that differences
between nights are the sky's. T targets, H × W pixels of the thumbnail; Y × X pixels of the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.astrometry import Solution
from pipeline.frame import Frame
from pipeline.sequences import MaskBit
from pipeline.survey import ThumbnailConfig

Floats = NDArray[np.float64]

SPLINE_ORDER: Final = {"nearest": 0, "bilinear": 1, "cubic": 3, "quintic": 5}
SPLINE_REACH_PX: Final = 20
"""The quintic prefilter's memory: its pole 0.43 to the 20th power is 5e-8 of the peak."""


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Thumbnails of T targets cut from one frame."""

    image_THW: NDArray[np.float32]
    """Flux per output pixel [nMgy]; NaN where the frame does not cover."""
    variance_THW: NDArray[np.float32]
    """[nMgy²]; NaN where the frame does not cover."""
    mask_THW: NDArray[np.uint8]
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

    Flux is conserved: values are multiplied by the ratio of pixel areas. The image is resampled with
    `config.kernel`; the variance linearly, so that it stays the variance of independent pixels
    (interpolation correlates noise, summed apertures keep their error); a mask bit covers every pixel that
    the flagged one touches.
    """
    affine_T23 = grid_affine(frame, ra_deg_T, dec_deg_T, config)
    x_pix_T, y_pix_T = frame.world_to_pixel(ra_deg_T, dec_deg_T)
    shape = (len(ra_deg_T), config.size, config.size)
    image_THW = np.empty(shape, dtype=np.float32)
    variance_THW = np.empty(shape, dtype=np.float32)
    mask_THW = np.empty(shape, dtype=np.uint8)
    for target, affine_23 in enumerate(affine_T23):
        image_THW[target], variance_THW[target], mask_THW[target] = _resample(frame, affine_23, config)
    covered_THW = (mask_THW & MaskBit.UNCOVERED) == 0
    return Thumbnails(
        image_THW=image_THW,
        variance_THW=variance_THW,
        mask_THW=mask_THW,
        coverage_T=covered_THW.mean(axis=(1, 2), dtype=np.float32),
        x_pix_T=x_pix_T,
        y_pix_T=y_pix_T,
        mjd_tai_T=frame.mjd_tai(y_pix_T),
    )


def grid_affine(frame: Solution, ra_deg_T: Floats, dec_deg_T: Floats, config: ThumbnailConfig) -> Floats:
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
    x_T9, y_T9 = frame.world_to_pixel(ra_T9, dec_T9)
    fit_39 = np.linalg.pinv(np.column_stack([row_9, column_9, np.ones(9)]))
    # Summed row by row: a matrix product rounds differently with the number of targets, and an object's
    # thumbnails must not change by one bit with its neighbours.
    return np.stack([(axis_T9[:, None, :] * fit_39).sum(axis=2) for axis_T9 in (y_T9, x_T9)], axis=1)


def rows_looked_at(
    solution: Solution, ra_deg_T: Floats, dec_deg_T: Floats, config: ThumbnailConfig, shape: tuple[int, int]
) -> list[slice]:
    """Rows, of a frame of this shape, that `cut_thumbnails` will look at for each target."""
    corner = np.array([0, config.size - 1])
    row_22, column_22 = np.meshgrid(corner, corner, indexing="ij")
    rows = []
    for affine_23 in grid_affine(solution, ra_deg_T, dec_deg_T, config):
        y_22, x_22 = (m[0] * row_22 + m[1] * column_22 + m[2] for m in affine_23)
        rows.append(_crop(y_22, x_22, shape)[2][0])
    return rows


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


def _resample(
    frame: Frame, affine_23: Floats, config: ThumbnailConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """Image, variance and mask of one target."""
    matrix, offset = affine_23[:, :2], affine_23[:, 2]
    rows, columns = np.indices((config.size, config.size))
    y_HW, x_HW = (m[0] * rows + m[1] * columns + m[2] for m in affine_23)
    height, width = frame.pixels.shape
    uncovered_HW = (y_HW < -0.5) | (y_HW > height - 0.5) | (x_HW < -0.5) | (x_HW > width - 0.5)
    if uncovered_HW.all():
        nothing = np.full(uncovered_HW.shape, np.nan, dtype=np.float32)
        return nothing, nothing.copy(), np.full(uncovered_HW.shape, MaskBit.UNCOVERED, dtype=np.uint8)

    area = abs(np.linalg.det(matrix))
    top, left, crop = _crop(y_HW, x_HW, (height, width))
    start = offset - (top, left)
    window = frame.pixels.window(*crop)
    mask_HW = _neighbours_mask(window.mask_YX, y_HW - top, x_HW - left)
    mask_HW[uncovered_HW] = MaskBit.UNCOVERED
    planes = []
    for plane_YX, order, scale in (
        (window.image_YX, SPLINE_ORDER[config.kernel], area),
        (window.variance_YX, 1, area**2),
    ):
        patch = plane_YX.astype(np.float64)
        out_HW = ndimage.affine_transform(patch, matrix, start, uncovered_HW.shape, order=order, mode="mirror")
        out_HW *= scale
        out_HW[uncovered_HW] = np.nan
        planes.append(out_HW.astype(np.float32))
    return planes[0], planes[1], mask_HW


def _neighbours_mask(mask_YX: NDArray[np.uint8], y_HW: Floats, x_HW: Floats) -> NDArray[np.uint8]:
    """All bits of the four pixels around each position; the nearest one alone would lose single flagged pixels."""
    rows, columns = (
        [np.clip(rounding(position).astype(int), 0, size - 1) for rounding in (np.floor, np.ceil)]
        for position, size in zip((y_HW, x_HW), mask_YX.shape, strict=True)
    )
    (top, bottom), (left, right) = rows, columns
    corners = [mask_YX[y, x] for y in (top, bottom) for x in (left, right)]
    return np.asarray(np.bitwise_or.reduce(corners, axis=0))


def _crop(y_HW: Floats, x_HW: Floats, shape: tuple[int, int]) -> tuple[int, int, tuple[slice, slice]]:
    """The part of the frame that the thumbnail can feel: its own extent and the kernel's reach."""
    bounds = []
    for position_HW, size in zip((y_HW, x_HW), shape, strict=True):
        first = min(max(int(position_HW.min()) - SPLINE_REACH_PX, 0), size - 1)
        last = max(min(int(position_HW.max()) + SPLINE_REACH_PX + 2, size), first + 1)
        bounds.append(slice(first, last))
    return bounds[0].start, bounds[1].start, (bounds[0], bounds[1])


def reference_image(
    image_YX: NDArray[np.float32], wcs: WCS, ra_deg: float, dec_deg: float, config: ThumbnailConfig
) -> NDArray[np.float64]:
    """The image of one target through `reproject`: slow, general, and what `cut_thumbnails` is tested against."""
    from reproject import reproject_interp

    target = target_wcs(ra_deg, dec_deg, size=config.size, pixel_scale_arcsec=config.pixel_scale_arcsec)
    shape = (config.size, config.size)
    order = SPLINE_ORDER[config.kernel]
    resampled, _ = reproject_interp((image_YX, wcs), target, shape_out=shape, order=order)
    area = target.proj_plane_pixel_area() / wcs.proj_plane_pixel_area()
    return np.asarray(resampled * float(area))
