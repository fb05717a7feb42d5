"""A DR7 `fpC` image: counts above a soft bias, the sky still in.

Source: https://classic.sdss.org/dr7/dm/flatFiles/fpC.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.calibrate import variance_nmgy2
from pipeline.frame import FieldCalibration, Window
from pipeline.hdus import Hdu
from pipeline.sky import sky_counts

MAX_BIAS: Final = 65535


@dataclass(frozen=True, slots=True)
class FpcPixels:
    """Counts and sky of a whole frame, calibrated where they are looked at."""

    counts_YX: NDArray[np.float32]
    """Soft bias removed."""
    sky_YX: NDArray[np.float32]
    """[counts]"""
    mask_YX: NDArray[np.uint8]
    calibration: FieldCalibration

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        height, width = self.counts_YX.shape
        return height, width

    def window(self, rows: slice, columns: slice) -> Window:
        """A rectangle in nanomaggies."""
        counts_YX = self.counts_YX[rows, columns]
        nmgy_per_count = np.float32(self.calibration.nmgy_per_count)
        image_YX = (counts_YX - self.sky_YX[rows, columns]) * nmgy_per_count
        variance_YX = variance_nmgy2(counts_YX, self.calibration.nmgy_per_count, self.calibration)
        return Window(image_YX, variance_YX, self.mask_YX[rows, columns])


def fpc_pixels(hdu: Hdu, mask_YX: NDArray[np.uint8], calibration: FieldCalibration) -> FpcPixels:
    """Counts of an fpC file's one HDU, and their sky.

    Raises
    ------
    ValueError
        Its BITPIX, BZERO or SOFTBIAS is not that of an fpC file.
    """
    header = hdu.header
    bias = float(header["SOFTBIAS"])
    if hdu.image.dtype != ">i2" or (header.get("BSCALE", 1), header.get("BZERO")) != (1, 32768):
        raise ValueError(f"BITPIX {header['BITPIX']}, BZERO {header.get('BZERO')} are not unsigned 16-bit counts")
    if not 0 <= bias <= MAX_BIAS:
        raise ValueError(f"SOFTBIAS is {bias}")
    counts_YX = hdu.image + np.float32(32768 - bias)
    return FpcPixels(counts_YX, sky_counts(counts_YX), mask_YX, calibration)
