"""The source mask of the sky model is the one that scipy's filters make."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.sky import GROWTH_PX, SMOOTHING_PX, find_sources


@settings(max_examples=40, deadline=None)
@given(height=st.integers(5, 60), width=st.integers(5, 60), density=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_sources_are_what_scipy_finds(height: int, width: int, density: float, seed: int) -> None:
    """Whole numbers, so that sums are exact and a pixel at the threshold is on the same side in both."""
    rng = np.random.default_rng(seed)
    excess = np.where(rng.random((height, width)) < density, rng.integers(-9, 100, (height, width)), 0)
    threshold = 20.01
    smooth = ndimage.uniform_filter(excess.astype(float), SMOOTHING_PX)
    expected = ndimage.binary_dilation(smooth > threshold, iterations=GROWTH_PX)
    np.testing.assert_array_equal(find_sources(excess.astype(np.float32), np.float32(threshold)), expected)
