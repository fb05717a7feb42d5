"""Interpolation by B-splines with its noise: the inner loops of resampling, in machine code.

A B-spline of odd order n passes through the samples once these are turned into coefficients by a recursive filter
(`prefilter`). What a sample then contributes at a distance t is the cardinal spline φ(t), which alternates in sign and
falls by 0.43 per pixel (quintic) or 0.27 (cubic): φ makes the propagated variance and says how far a bad pixel reaches.

Source: Unser, Aldroubi & Eden 1993, IEEE Trans. Signal Processing 41, 821 and 834; boundary and order of operations
as in scipy.ndimage, the oracle of the tests.
"""

from __future__ import annotations

from functools import cache
from math import sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.compiled import compiled

Floats = NDArray[np.float64]

ORDER: Final = {"nearest": 0, "bilinear": 1, "cubic": 3, "quintic": 5}
POLES: Final[dict[int, tuple[float, ...]]] = {
    0: (),
    1: (),
    3: (sqrt(3) - 2,),
    5: (sqrt(67.5 - sqrt(4436.25)) + sqrt(26.25) - 6.5, sqrt(67.5 + sqrt(4436.25)) - sqrt(26.25) - 6.5),
}
REACH_PX: Final = 16
"""Margin of samples that the prefilter needs: 0.43 to the 16th power is 1.4e-6."""
CARDINAL_TAPS: Final = 10
"""Samples on which φ is taken to act along an axis: beyond five pixels it is under 0.009, its square under 1e-4."""
CARDINAL_STEPS: Final = 512
"""Phases between two samples at which φ is tabulated; linear in between it is good to 2e-6."""


@compiled
def prefilter(plane_YX: Floats, poles: Floats) -> None:
    """Turn samples into spline coefficients in place, mirrored about the first and last sample of each axis."""
    height, width = plane_YX.shape
    for pole in poles:
        gain = (1 - pole) * (1 - 1 / pole)
        if width > 1:
            for y in range(height):
                row = plane_YX[y]
                row *= gain
                last = pole ** (width - 1)
                start, power = row[0] + last * row[width - 1], pole
                for x in range(1, width - 1):
                    start += power * (row[x] + last * row[width - 1 - x])
                    power *= pole
                row[0] = start / (1 - last * last)
                for x in range(1, width):
                    row[x] += pole * row[x - 1]
                row[width - 1] = (pole * row[width - 2] + row[width - 1]) * pole / (pole * pole - 1)
                for x in range(width - 2, -1, -1):
                    row[x] = pole * (row[x + 1] - row[x])
        if height > 1:
            plane_YX *= gain
            last = pole ** (height - 1)
            start_X, power = plane_YX[0] + last * plane_YX[height - 1], pole
            for y in range(1, height - 1):
                start_X += power * (plane_YX[y] + last * plane_YX[height - 1 - y])
                power *= pole
            plane_YX[0] = start_X / (1 - last * last)
            for y in range(1, height):
                plane_YX[y] += pole * plane_YX[y - 1]
            plane_YX[height - 1] = (pole * plane_YX[height - 2] + plane_YX[height - 1]) * pole / (pole * pole - 1)
            for y in range(height - 2, -1, -1):
                plane_YX[y] = pole * (plane_YX[y + 1] - plane_YX[y])


@compiled
def basis(fraction: float, order: int, weights: Floats) -> None:
    """B-spline weights of the `order` + 1 coefficients around a position `fraction` past a sample (odd order)."""
    weights[0] = 1.0
    for degree in range(1, order + 1):
        inverse = 1.0 / degree
        weights[degree] = fraction * weights[degree - 1] * inverse
        for j in range(degree - 1, 0, -1):
            weights[j] = ((fraction + degree - j) * weights[j - 1] + (j + 1 - fraction) * weights[j]) * inverse
        weights[0] *= (1 - fraction) * inverse


@compiled
def mirrored(index: int, size: int) -> int:
    """`index` reflected into 0 … size - 1 about the first and last sample."""
    if size == 1:
        return 0
    index = abs(index) % (2 * size - 2)
    return index if index < size else 2 * size - 2 - index


@compiled
def weighted(plane_YX: NDArray[np.floating[Any]], y0: int, x0: int, wy: Floats, wx: Floats) -> float:
    """Sum of the samples from (y0, x0) on, mirrored at the edges, with weights along both axes."""
    height, width = plane_YX.shape
    total = 0.0
    if y0 >= 0 and x0 >= 0 and y0 + wy.size <= height and x0 + wx.size <= width:
        for j in range(wy.size):
            along = 0.0
            for i in range(wx.size):
                along += wx[i] * plane_YX[y0 + j, x0 + i]
            total += wy[j] * along
        return total
    for j in range(wy.size):
        y, along = mirrored(y0 + j, height), 0.0
        for i in range(wx.size):
            along += wx[i] * plane_YX[y, mirrored(x0 + i, width)]
        total += wy[j] * along
    return total


@compiled
def evaluate(coefficients_YX: Floats, y_N: Floats, x_N: Floats, order: int) -> Floats:
    """The spline at N positions (0: the centre of the first sample); order 0 takes the nearest sample."""
    out_N = np.empty(y_N.size)
    wy, wx = np.empty(order + 1), np.empty(order + 1)
    for n in range(y_N.size):
        if order:
            y0, x0 = int(np.floor(y_N[n])), int(np.floor(x_N[n]))
            basis(y_N[n] - y0, order, wy)
            basis(x_N[n] - x0, order, wx)
            y0 -= (order - 1) // 2
            x0 -= (order - 1) // 2
        else:
            y0, x0 = int(np.floor(y_N[n] + 0.5)), int(np.floor(x_N[n] + 0.5))
            wy[0] = wx[0] = 1.0
        out_N[n] = weighted(coefficients_YX, y0, x0, wy, wx)
    return out_N


@cache
def cardinal(order: int) -> Floats:
    """φ of a kernel, (CARDINAL_STEPS + 1) × CARDINAL_TAPS: [step, k] at distance step / STEPS + TAPS / 2 - 1 - k."""
    half = 40
    impulse_YX = np.zeros((1, 2 * half + 1))
    impulse_YX[0, half] = 1.0
    prefilter(impulse_YX, np.array(POLES[order]))
    fraction = np.arange(CARDINAL_STEPS + 1)[:, None] / CARDINAL_STEPS
    distance = fraction + CARDINAL_TAPS // 2 - 1 - np.arange(CARDINAL_TAPS)
    position = (half + distance).ravel()
    return evaluate(impulse_YX, np.zeros(position.size), position, order).reshape(distance.shape)


@compiled
def fill(plane_YX: Floats, bad_YX: NDArray[np.bool_]) -> None:
    """Give bad pixels the mean of their neighbours, from the rim inwards, in place; nothing good: zero."""
    height, width = plane_YX.shape
    left_YX, ready_YX = bad_YX.copy(), bad_YX.copy()
    while True:
        done = 0
        for y in range(height):
            for x in range(width):
                if not left_YX[y, x]:
                    continue
                total, count = 0.0, 0
                for v in range(max(y - 1, 0), min(y + 2, height)):
                    for u in range(max(x - 1, 0), min(x + 2, width)):
                        if not left_YX[v, u]:
                            total += plane_YX[v, u]
                            count += 1
                if count:
                    plane_YX[y, x] = total / count
                    ready_YX[y, x] = False
                    done += 1
        left_YX[:] = ready_YX
        if not done:
            break
    for y in range(height):
        for x in range(width):
            if left_YX[y, x]:
                plane_YX[y, x] = 0.0


@compiled
def propagate(variance_YX: NDArray[np.float32], y_N: Floats, x_N: Floats, cardinal_ST: Floats) -> tuple[Floats, Floats]:
    """Variance at N positions, Σ φ²(y - j) φ²(x - i) variance_ji, and the same for a variance of 1 everywhere.

    The second is what interpolation makes of the noise of independent pixels: 1 on a sample, less between them.
    """
    steps, taps = cardinal_ST.shape[0] - 1, cardinal_ST.shape[1]
    out_N, factor_N = np.empty(y_N.size), np.empty(y_N.size)
    wy, wx = np.empty(taps), np.empty(taps)
    for n in range(y_N.size):
        y0, x0 = int(np.floor(y_N[n])), int(np.floor(x_N[n]))
        at_phase(y_N[n] - y0, cardinal_ST, steps, wy)
        at_phase(x_N[n] - x0, cardinal_ST, steps, wx)
        sum_y = sum_x = 0.0
        for k in range(taps):
            wy[k] *= wy[k]
            wx[k] *= wx[k]
            sum_y += wy[k]
            sum_x += wx[k]
        out_N[n] = weighted(variance_YX, y0 - taps // 2 + 1, x0 - taps // 2 + 1, wy, wx)
        factor_N[n] = sum_y * sum_x
    return out_N, factor_N


@compiled
def at_phase(fraction: float, cardinal_ST: Floats, steps: int, weights: Floats) -> None:
    """φ at `fraction` past a sample, linear between the tabulated phases."""
    place = fraction * steps
    step = min(int(place), steps - 1)
    part = place - step
    for k in range(weights.size):
        weights[k] = (1 - part) * cardinal_ST[step, k] + part * cardinal_ST[step + 1, k]


@compiled
def reached_bits(
    mask_YX: NDArray[np.uint8], y_N: Floats, x_N: Floats, cardinal_ST: Floats, least: float
) -> NDArray[np.uint8]:
    """Bits of every flagged pixel that enters a position by more than `least` of its value, or lies next to it."""
    height, width = mask_YX.shape
    steps, taps = cardinal_ST.shape[0] - 1, cardinal_ST.shape[1]
    near_YX = neighbourhood(mask_YX, taps)
    out_N = np.zeros(y_N.size, dtype=np.uint8)
    wy, wx = np.empty(taps), np.empty(taps)
    for n in range(y_N.size):
        y0, x0 = int(np.floor(y_N[n])), int(np.floor(x_N[n]))
        if not near_YX[min(max(y0, 0), height - 1), min(max(x0, 0), width - 1)]:
            continue
        at_phase(y_N[n] - y0, cardinal_ST, steps, wy)
        at_phase(x_N[n] - x0, cardinal_ST, steps, wx)
        bits = 0
        for j in range(taps):
            y = y0 - taps // 2 + 1 + j
            if not 0 <= y < height:
                continue
            for i in range(taps):
                x = x0 - taps // 2 + 1 + i
                if 0 <= x < width and mask_YX[y, x] and abs(wy[j] * wx[i]) > least:
                    bits |= mask_YX[y, x]
        out_N[n] = bits | touching(mask_YX, y_N[n], x_N[n])
    return out_N


@compiled
def neighbourhood(mask_YX: NDArray[np.uint8], taps: int) -> NDArray[np.bool_]:
    """Whether anything is flagged within `taps` // 2 + 1 rows and columns of each pixel."""
    height, width = mask_YX.shape
    reach = taps // 2 + 1
    near_YX = np.zeros((height, width), dtype=np.bool_)
    for y in range(height):
        for x in range(width):
            if mask_YX[y, x]:
                near_YX[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1] = True
    return near_YX


@compiled
def touched_bits(mask_YX: NDArray[np.uint8], y_N: Floats, x_N: Floats) -> NDArray[np.uint8]:
    """Bits of the pixels around each position."""
    out_N = np.empty(y_N.size, dtype=np.uint8)
    for n in range(y_N.size):
        out_N[n] = touching(mask_YX, y_N[n], x_N[n])
    return out_N


@compiled
def touching(mask_YX: NDArray[np.uint8], y: float, x: float) -> int:
    """Bits of the pixels around a position: four, or fewer where it lies on a row or column of centres."""
    height, width = mask_YX.shape
    top, bottom = min(max(int(np.floor(y)), 0), height - 1), min(max(int(np.ceil(y)), 0), height - 1)
    left, right = min(max(int(np.floor(x)), 0), width - 1), min(max(int(np.ceil(x)), 0), width - 1)
    return int(mask_YX[top, left] | mask_YX[top, right] | mask_YX[bottom, left] | mask_YX[bottom, right])
