"""A DR8+ `frame-*` image: calibrated and sky-subtracted, with what it takes to get the counts back for their noise.

Source: https://data.sdss.org/datamodel/files/BOSS_PHOTOOBJ/frames/RERUN/RUN/CAMCOL/frame.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.calibrate import variance_nmgy2
from pipeline.errors import RowsNotRead
from pipeline.frame import FieldCalibration, Window
from pipeline.hdus import Hdu
from pipeline.identity import SHAPE

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Dr8Pixels:
    """A calibrated image with its calibration vector and its sky; variances are worked out where they are looked at."""

    image_YX: NDArray[np.float32]
    """Big-endian, as in the file."""
    nmgy_per_count_X: Floats
    sky: SkyMap
    mask_YX: NDArray[np.uint8]
    calibration: FieldCalibration
    read_Y: NDArray[np.bool_] | None = None
    """Which rows of the image have been read; None: all."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        height, width = self.image_YX.shape
        return height, width

    @property
    def nmgy_per_count(self) -> float:
        """At the middle column."""
        return float(self.nmgy_per_count_X[len(self.nmgy_per_count_X) // 2])

    def window(self, rows: slice, columns: slice) -> Window:
        """A rectangle; its counts are recovered by inverting calibration and sky.

        Raises
        ------
        RowsNotRead
            The image was read in part, and not all of these rows with it.
        """
        if self.read_Y is not None and not self.read_Y[rows].all():
            raise RowsNotRead(f"rows {rows.start} to {rows.stop} of a frame were not asked for when it was read")
        image_YX = self.image_YX[rows, columns].astype(np.float32)
        nmgy_per_count_X = self.nmgy_per_count_X[columns]
        counts_YX = image_YX / nmgy_per_count_X + self.sky.counts(rows, columns)
        variance_YX = variance_nmgy2(counts_YX, nmgy_per_count_X, self.calibration)
        return Window(image_YX, variance_YX, self.mask_YX[rows, columns])


@dataclass(frozen=True, slots=True)
class SkyMap:
    """The sky that was subtracted: a low-resolution map with the place of every column and row in it."""

    allsky: Floats
    """[counts]"""
    x_interp_X: Floats
    y_interp_Y: Floats

    def counts(self, rows: slice, columns: slice) -> Floats:
        """Sky at every pixel of a rectangle: bilinear in the map, clamped at its edges [counts]."""
        y0, wy = _clamped(self.y_interp_Y[rows], self.allsky.shape[0])
        x0, wx = _clamped(self.x_interp_X[columns], self.allsky.shape[1])
        along = self.allsky[y0] * (1 - wy)[:, None] + self.allsky[y0 + 1] * wy[:, None]
        return np.asarray(along[:, x0] * (1 - wx) + along[:, x0 + 1] * wx, dtype=np.float32)


def _clamped(position: Floats, size: int) -> tuple[NDArray[np.intp], Floats]:
    inside = np.clip(position, 0, size - 1)
    lower = np.minimum(inside.astype(np.intp), size - 2)
    return lower, np.asarray(inside - lower, dtype=np.float32)


def dr8_pixels(
    hdus: Sequence[Hdu],
    mask_YX: NDArray[np.uint8],
    calibration: FieldCalibration,
    read_Y: NDArray[np.bool_] | None = None,
) -> Dr8Pixels:
    """Image, calibration vector and sky of a frame file's first three HDUs, of which `read_Y` rows are there.

    Raises
    ------
    ValueError
        They do not fit together, or cannot be inverted.
    """
    row = hdus[2].table[0]
    sky = SkyMap(*(np.asarray(row[name], dtype=np.float32) for name in ("allsky", "xinterp", "yinterp")))
    nmgy_per_count_X = hdus[1].image.astype(np.float32)
    if (sky.y_interp_Y.shape, sky.x_interp_X.shape, nmgy_per_count_X.shape) != ((SHAPE[0],), (SHAPE[1],), (SHAPE[1],)):
        raise ValueError(f"calibration {nmgy_per_count_X.shape} and sky do not fit {SHAPE} pixels")
    if sky.allsky.ndim != 2 or min(sky.allsky.shape) < 2 or not np.isfinite(sky.allsky).all():
        raise ValueError(f"sky map {sky.allsky.shape} is no map of finite numbers")
    if not (np.isfinite(sky.x_interp_X).all() and np.isfinite(sky.y_interp_Y).all()):
        raise ValueError("columns or rows have no place in the sky map")
    if not ((nmgy_per_count_X > 0).all() and np.isfinite(nmgy_per_count_X).all()):
        raise ValueError("calibration vector is not positive everywhere")
    if hdus[0].image.dtype != ">f4":
        raise ValueError(f"BITPIX is {hdus[0].header['BITPIX']}, expected -32")
    return Dr8Pixels(hdus[0].image, nmgy_per_count_X, sky, mask_YX, calibration, read_Y)
