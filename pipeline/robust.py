"""Means that outliers do not move: variable stars, blends and cosmic rays are a few per cent of all measurements.

Shapes: N values in G groups.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROUNDS: Final = 30


def robust_mean(value_N: Floats, sigma_N: Floats) -> tuple[float, float, float]:
    """Mean of values with errors, its error, and the scatter of the values: 1.4826 times their median deviation.

    Each value has the weight 1 / (sigma² + its deviation²), a Cauchy law's, round after round from the median on. The
    error is that of the weights or that of the scatter, whichever is larger.

    Raises
    ------
    ValueError
        There is no value.
    """
    if not value_N.size:
        raise ValueError("no values")
    mean = float(np.median(value_N))
    for _ in range(ROUNDS):
        weight_N = 1 / (sigma_N**2 + (value_N - mean) ** 2)
        mean = float((weight_N * value_N).sum() / weight_N.sum())
    deviation_N = np.abs(value_N - mean)
    scatter = 1.4826 * float(np.median(deviation_N))
    formal = 1 / np.sqrt((1 / sigma_N**2).sum())
    observed = np.sqrt(((weight_N * deviation_N) ** 2).sum()) / weight_N.sum()
    return mean, float(max(formal, observed)), scatter


def grouped_mean(
    value_N: Floats, sigma_N: Floats, group_N: NDArray[np.intp], n_groups: int, start_G: Floats
) -> tuple[Floats, Floats]:
    """One round of the same for each group, from `start_G` on, and sums of weights; an empty group keeps its start."""
    weight_N = 1 / (sigma_N**2 + (value_N - start_G[group_N]) ** 2)
    total_G: Floats = np.bincount(group_N, weight_N, n_groups).astype(np.float64)
    sum_G = np.bincount(group_N, weight_N * value_N, n_groups)
    return np.divide(sum_G, total_G, out=start_G.copy(), where=total_G > 0), total_G
