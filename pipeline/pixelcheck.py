"""What is off in a frame's pixels, as the thumbnails cut from it show: noise, sky, bright pixels and masks.

Headers do not tell of a frame that is dead, blurred or crossed by a satellite. A single thumbnail does not either: one
beside a bright star looks strange in every night. So each image is held against the other images of the same object in
the same band, away from the object itself, which may vary; a frame has the median of its images.

Shapes: M images of one object, H × W pixels, P of them away from the middle; K = 4 quantities.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.sequences import MaskBit, Sequence

Floats = NDArray[np.float64]
Number = TypeVar("Number", np.float32, np.float64)

AWAY_ARCSEC: Final = 4.0
"""Pixels nearer to the middle are the object's; of a small thumbnail, the nearer half."""
MIN_IMAGES: Final = 3
"""With fewer in the band nothing is known of what is usual for the object: its images are held against an empty sky."""
BRIGHT_SIGMA: Final = 5.0
MAD_TO_SIGMA: Final = 1.4826
RATIOS: Final = (1e-3, 1e3)
"""Of noise to what is expected: a dead frame has none at all."""
PIXEL_COLUMNS: Final = ("noise_ratio", "sky_offset", "bright_excess", "masked_excess")
"""Columns of frames.parquet."""


class PixelCheck:
    """Takes the objects of a cell one by one; then knows its frames."""

    def __init__(self) -> None:
        self._found: dict[str, list[Floats]] = defaultdict(list)

    def add(self, sequence: Sequence) -> None:
        """Hold an object's images against one another."""
        for sha256, found_K in zip(sequence.frame_sha256.tolist(), differences(sequence), strict=True):
            self._found[sha256.decode()].append(found_K)

    def columns(self, sha256: str) -> dict[str, float]:
        """Of a frame: the medians over its images; NaN where none tells."""
        images = self._found.get(sha256)
        median_K = _medians(np.array(images).T) if images else np.full(len(PIXEL_COLUMNS), np.nan)
        ratio, *others = median_K.tolist()
        return dict(zip(PIXEL_COLUMNS, (float(np.exp(ratio)), *others), strict=True))


def differences(sequence: Sequence) -> Floats:
    """How each image differs from the object's others in its band, (M, K).

    The logarithm of the noise over that which `variance` says, the sky's level in standard deviations of a pixel, the
    part of pixels brighter than BRIGHT_SIGMA, and the part of the covered pixels that masks name.
    """
    away_HW = _away(sequence.image.shape[1], sequence.image.shape[2], sequence.pixel_scale_arcsec)
    pixel_MP = sequence.image[:, away_HW]
    level_M = _medians(pixel_MP)
    sigma_M = MAD_TO_SIGMA * _medians(np.abs(pixel_MP - level_M[:, None]))
    expected_M = np.sqrt(_medians(sequence.variance[:, away_HW]))
    bright_MP = pixel_MP > (level_M + BRIGHT_SIGMA * sigma_M)[:, None]
    covered_MHW = (sequence.mask & int(MaskBit.UNCOVERED)) == 0
    masked_MHW = covered_MHW & (sequence.mask > 0)
    value_KM = np.stack(
        (
            _log_ratio(sigma_M, expected_M),
            level_M,
            _quotient(bright_MP.sum(axis=1), np.isfinite(pixel_MP).sum(axis=1)),
            _quotient(masked_MHW.sum(axis=(1, 2)), covered_MHW.sum(axis=(1, 2))),
        )
    )
    for band in np.unique(sequence.band_id):
        in_band_M = sequence.band_id == band
        if in_band_M.sum() >= MIN_IMAGES:
            value_KM[:, in_band_M] -= np.nan_to_num(_medians(value_KM[:, in_band_M]))[:, None]
    value_KM[1] = _quotient(value_KM[1], sigma_M)
    return np.asarray(value_KM.T)


@cache
def _away(height: int, width: int, pixel_scale_arcsec: float) -> NDArray[np.bool_]:
    y, x = np.mgrid[:height, :width]
    distance_HW = pixel_scale_arcsec * np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    return np.asarray(distance_HW >= min(AWAY_ARCSEC, float(np.median(distance_HW))))


def _medians(value_NP: NDArray[Number]) -> Floats:
    """Median of each row's numbers; NaN, without numpy's warning and in a tenth of its time, where there are none."""
    sorted_NP = np.sort(value_NP, axis=1)  # NaN comes last
    n_N = (~np.isnan(sorted_NP)).sum(axis=1)
    middle_N2 = np.take_along_axis(sorted_NP, np.stack(((n_N - 1) // 2, n_N // 2), axis=1), axis=1)
    return np.asarray(middle_N2.mean(axis=1, dtype=np.float64))


def _log_ratio(sigma_M: Floats, expected_M: Floats) -> Floats:
    ratio_M = np.divide(sigma_M, expected_M, out=np.full(len(sigma_M), np.inf), where=expected_M > 0)
    known_M = np.isfinite(sigma_M) & np.isfinite(expected_M)
    return np.where(known_M, np.log(np.clip(np.where(sigma_M > 0, ratio_M, 0), *RATIOS)), np.nan)


def _quotient(upper_M: NDArray[np.number], lower_M: NDArray[np.number]) -> Floats:
    """NaN where nothing is divided by."""
    return np.asarray(np.divide(upper_M, lower_M, out=np.full(len(lower_M), np.nan), where=lower_M > 0))
