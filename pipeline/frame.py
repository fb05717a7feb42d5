"""One calibrated image, whichever archive it is from: what readers give and thumbnails are cut from.

Shapes: Y rows × X columns; rows run along the scan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.astrometry import AsTrans, Solution
from pipeline.naming import FrameId

SECONDS_PER_DAY: Final = 86400.0


class ZeropointSource(IntEnum):
    """Where a frame's zero point comes from."""

    FRAME = 1
    TSFIELD = 2
    STANDARD_STARS = 3
    """tsField, corrected by standard stars."""


@dataclass(frozen=True, slots=True)
class FieldCalibration:
    """What the survey's own field table says of one frame."""

    gain_e_per_count: float
    dark_variance_counts2: float
    nmgy_per_count: float
    psf_fwhm_arcsec: float
    sky_nmgy_arcsec2: float
    airmass: float
    quality: int
    mjd_tai_row0: float
    astrometry: AsTrans | None = None
    """The full solution, where the table has it in double precision (tsField)."""


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of a frame."""

    image_YX: NDArray[np.float32]
    """Flux per pixel, sky-subtracted [nMgy]."""
    variance_YX: NDArray[np.float32]
    """[nMgy²]."""
    mask_YX: NDArray[np.uint8]
    """Bits of `MaskBit`; all zero where there are no mask planes."""


class Pixels(Protocol):
    """The pixels of a frame, calibrated where they are looked at: a thumbnail needs 1 in 500 of them."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        ...

    def window(self, rows: slice, columns: slice) -> Window:
        """The pixels of a rectangle inside the frame, which both slices give by whole numbers."""
        ...


Need = Callable[[Solution], Sequence[slice]]
"""The rows that will be looked at, once it is known where the sky falls; a reader may leave out all others."""


@dataclass(frozen=True, slots=True)
class ArrayPixels:
    """Pixels that are calibrated already, all of them."""

    image_YX: NDArray[np.float32]
    variance_YX: NDArray[np.float32]
    mask_YX: NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        height, width = self.image_YX.shape
        return height, width

    def window(self, rows: slice, columns: slice) -> Window:
        """Views of the three planes."""
        return Window(self.image_YX[rows, columns], self.variance_YX[rows, columns], self.mask_YX[rows, columns])


@dataclass(frozen=True, slots=True)
class Frame:
    """One calibrated, sky-subtracted image with all that a thumbnail must carry along."""

    id: FrameId
    pixels: Pixels
    solution: Solution
    tai_row0_s: float
    """TAI of the read-out of row 0 [s since MJD 0]."""
    row_clock_s: float
    exposure_s: float
    zeropoint_nmgy: float
    """Flux of one count at the middle column."""
    zeropoint_source: ZeropointSource
    calibration: FieldCalibration

    def mjd_tai(self, y_pix: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """MJD (TAI) of the middle of the exposure of row `y_pix`.

        A pixel collects light during the `exposure_s` before its row is read.
        """
        tai_s = self.tai_row0_s + y_pix * self.row_clock_s - self.exposure_s / 2
        return np.asarray(tai_s / SECONDS_PER_DAY)

    def world_to_pixel(
        self, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """0-based (x, y) of sky positions by the frame's astrometric solution."""
        return self.solution.world_to_pixel(ra_deg, dec_deg)

    def whole(self) -> Window:
        """All of its pixels."""
        height, width = self.pixels.shape
        return self.pixels.window(slice(0, height), slice(0, width))
