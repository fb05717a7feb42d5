"""The smooth sky of a DR7 frame, which its file still holds.

Two passes of Source Extractor's background (`sep`), with the sources that the first leaves found and masked for the
second; docs/decisions/003-field-scale-sky.md says why.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import sep
from numpy.typing import NDArray

from pipeline.compiled import compiled

Floats = NDArray[np.float32]

MESH_PX: Final = 256
"""Mesh of the sky model, 1.7′: wide enough not to eat a galaxy, narrow enough for scattered light."""
SMOOTHING_PX: Final = 5
SOURCE_SIGMA: Final = 3.0
GROWTH_PX: Final = 3
"""A source is what stands 3 σ out of the 5 × 5 px mean, grown by 3 px up, down, left and right."""
DITHER_SEED: Final = 0


def sky_counts(counts_YX: Floats) -> Floats:
    """Smooth sky of a whole frame [counts], its sources masked out.

    Between the passes, sources are found on a smoothed image: a cut on single pixels would also cut the bright half of
    the noise and bias the sky low. Counts are whole numbers, whose median is one too; dithering them by less than one
    count keeps Source Extractor's mode from jumping by a tenth of the noise (3 % of a 20th magnitude star in 3″).
    """
    first = sep.Background(counts_YX, bw=MESH_PX, bh=MESH_PX)
    excess_YX = counts_YX - first.back(dtype=np.float32)
    sources_YX = find_sources(excess_YX, np.float32(SOURCE_SIGMA * first.globalrms / SMOOTHING_PX))
    dithered_YX = np.add(counts_YX, _dither(counts_YX.shape), out=excess_YX)
    second = sep.Background(dithered_YX, mask=sources_YX, bw=MESH_PX, bh=MESH_PX)
    return np.asarray(second.back(dtype=np.float32))


@cache
def _dither(shape: tuple[int, int]) -> Floats:
    """The same for every frame of a process: uniform in [-0.5, 0.5)."""
    return np.random.default_rng(DITHER_SEED).random(shape, dtype=np.float32) - np.float32(0.5)


def find_sources(excess_YX: Floats, threshold: np.float32) -> NDArray[np.bool_]:
    """Where the mean of 5 × 5 pixels is above `threshold`, grown by 3 px; edges are mirrored."""
    above_YX = np.empty(excess_YX.shape, dtype=np.bool_)
    _above(excess_YX, np.float32(threshold * SMOOTHING_PX**2), above_YX)
    return _grown(above_YX, GROWTH_PX)


@compiled
def _above(excess_YX: Floats, least: np.float32, above_YX: NDArray[np.bool_]) -> None:
    """Whether the sum of the 5 × 5 pixels around each is above `least`: sums of columns, then of rows of them."""
    height, width = excess_YX.shape
    half = SMOOTHING_PX // 2
    column_X = np.empty(width + 2 * half, dtype=np.float32)
    for y in range(height):
        column_X[:] = 0
        for v in range(y - half, y + half + 1):
            inside = -v - 1 if v < 0 else (2 * height - 1 - v if v >= height else v)
            column_X[half : half + width] += excess_YX[inside]
        for k in range(half):
            column_X[half - 1 - k] = column_X[half + k]
            column_X[half + width + k] = column_X[half + width - 1 - k]
        for x in range(width):
            total = column_X[x]
            for k in range(1, SMOOTHING_PX):
                total += column_X[x + k]
            above_YX[y, x] = total > least


@compiled
def _grown(flags_YX: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """All pixels within so many steps up, down, left and right of a flagged one."""
    height, width = flags_YX.shape
    grown_YX = np.zeros((height, width), dtype=np.bool_)
    for y in range(height):
        for x in range(width):
            if not flags_YX[y, x]:
                continue
            inner = 0 < y < height - 1 and 0 < x < width - 1
            if inner and flags_YX[y - 1, x] and flags_YX[y + 1, x] and flags_YX[y, x - 1] and flags_YX[y, x + 1]:
                grown_YX[y, x] = True  # what it would grow into, its neighbours do
                continue
            for v in range(max(y - steps, 0), min(y + steps + 1, height)):
                reach = steps - abs(v - y)
                grown_YX[v, max(x - reach, 0) : x + reach + 1] = True
    return grown_YX
