"""The compiled splines are scipy's, and what they say of noise and reach is what an impulse does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline import spline

NOISE = slice(1, 9)


def coefficients(samples: np.ndarray, order: int) -> np.ndarray:
    found = samples.copy()
    spline.prefilter(found, np.array(spline.POLES[order]))
    return found


@settings(max_examples=60, deadline=None)
@given(
    order=st.sampled_from([0, 1, 3, 5]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_values_are_those_of_scipy(order: int, height: int, width: int, seed: int) -> None:
    """Any size of crop, positions everywhere inside and half a pixel outside, to 1e-9 of the samples."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(height, width))
    y, x = rng.uniform(-0.5, height - 0.5, 50), rng.uniform(-0.5, width - 0.5, 50)
    expected = ndimage.map_coordinates(samples, [y, x], order=order, mode="mirror")
    np.testing.assert_allclose(spline.evaluate(coefficients(samples, order), y, x, order), expected, atol=1e-9)


@pytest.mark.parametrize(("order", "tolerance"), [(1, 1e-6), (3, 1e-3), (5, 2e-3)])
def test_variance_is_the_sum_of_squared_impulse_responses(order: int, tolerance: float) -> None:
    """Brute force: scipy interpolates each pixel's impulse; the squares, times the pixel's variance, are summed."""
    rng = np.random.default_rng(order)
    variance = rng.uniform(0.5, 2.0, (24, 26)).astype(np.float32)
    y, x = rng.uniform(0, 23, 80), rng.uniform(0, 25, 80)
    expected, unit = np.zeros(80), np.zeros(80)
    for place in np.ndindex(variance.shape):
        impulse = np.zeros(variance.shape)
        impulse[place] = 1.0
        squared = ndimage.map_coordinates(impulse, [y, x], order=order, mode="mirror") ** 2
        expected += squared * variance[place]
        unit += squared
    inside = (y > 5) & (y < 18) & (x > 5) & (x < 20)  # at the edges mirrored samples are the same ones twice
    found, factor = spline.propagate(variance, y, x, np.ascontiguousarray(spline.cardinal(order)[:, NOISE]))
    assert inside.sum() > 10
    np.testing.assert_allclose(found[inside], expected[inside], rtol=tolerance)
    np.testing.assert_allclose(factor[inside], unit[inside], rtol=tolerance)


@pytest.mark.parametrize("order", [1, 3, 5])
def test_what_no_bit_reaches_is_not_touched_by_more_than_one_percent(order: int) -> None:
    """An error of 1 in the flagged pixel, propagated by scipy: below 0.01 wherever the mask is clear."""
    rng = np.random.default_rng(order)
    y, x = rng.uniform(10, 30, 4000), rng.uniform(10, 30, 4000)
    mask = np.zeros((41, 41), dtype=np.uint8)
    mask[20, 20] = 4
    error = ndimage.map_coordinates(mask / 4.0, [y, x], order=order, mode="mirror")
    bits = spline.reached_bits(mask, y, x, spline.cardinal(order), 0.01)
    assert set(bits.tolist()) == {0, 4}
    assert np.abs(error[bits == 0]).max() < 0.01
    touching = (np.abs(y - 20) < 1) & (np.abs(x - 20) < 1)
    assert (bits[touching] == 4).all()


def test_fill_reaches_everything_and_keeps_the_good() -> None:
    """A hole in a slope is filled with values between those of its rim; nothing good at all gives zeros."""
    plane = np.add.outer(np.arange(20.0), np.arange(30.0))
    bad = np.zeros(plane.shape, dtype=bool)
    bad[6:13, 8:17] = True
    filled = np.where(bad, np.nan, plane)
    spline.fill(filled, bad)
    np.testing.assert_array_equal(filled[~bad], plane[~bad])
    assert np.abs(filled - plane)[bad].max() < 4
    nothing = np.full((4, 4), np.nan)
    spline.fill(nothing, np.ones((4, 4), dtype=bool))
    np.testing.assert_array_equal(nothing, 0)
