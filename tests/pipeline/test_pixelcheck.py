"""What frames' pixels say: what was done to a frame is measured, what belongs to the sky is not held against it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.pixelcheck import PixelCheck, differences
from pipeline.schema import COLUMNS, MaskBit
from pipeline.sequences import Sequence

N, SIZE, SIGMA = 12, 32, 0.1
Y, X = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2


def names(frame: int) -> str:
    return f"{frame:064x}"


def observed(seed: int, sky: float = 0.0, neighbour: float = 0.0) -> Sequence:
    """Twelve nights of one band: noise, an object that explodes, and what stands beside it every night."""
    rng = np.random.default_rng(seed)
    flux_M = np.linspace(0, 300, N)
    star = np.exp(-(X**2 + Y**2) / 6) / 19
    light = flux_M[:, None, None] * star + sky + neighbour * np.exp(-((X - 12) ** 2 + Y**2) / 6) / 19
    arrays = {name: np.ones(N, column.dtype) for name, column in COLUMNS.items() if column.ndim == 1}
    arrays |= {
        "image": (light + SIGMA * rng.standard_normal((N, SIZE, SIZE))).astype(np.float32),
        "variance": np.full((N, SIZE, SIZE), SIGMA**2, np.float32),
        "mask": np.zeros((N, SIZE, SIZE), np.uint8),
        "frame_sha256": np.array([names(frame) for frame in range(N)], "S64"),
    }
    return Sequence(
        object_id=str(seed), survey="test", ra_deg=0.0, dec_deg=0.0, class_name="", confirmation="",
        pixel_scale_arcsec=0.396, wcs_header="", pipeline_version=1, **arrays,
    )  # fmt: skip


def spoilt(sequence: Sequence) -> Sequence:
    """Frame 1 three times as noisy, 2 with a sky half a σ too bright, 3 with a trail, 4 with masks, 5 dead."""
    rng = np.random.default_rng(99)
    image, mask = sequence.image.copy(), sequence.mask.copy()
    image[1] += np.sqrt(8) * SIGMA * rng.standard_normal((SIZE, SIZE))
    image[2] += 0.5 * SIGMA
    image[3][np.abs(Y - X) < 2] += 5.0
    mask[4, :, :8] = MaskBit.INTERP
    image[5] = 0
    return replace(sequence, image=image, mask=mask)


def test_what_was_done_to_a_frame_is_measured_and_the_objects_are_not() -> None:
    """The oracle is what was put in: a supernova, a neighbour of 300 nMgy and a host's light change nothing."""
    check = PixelCheck()
    for seed in range(8):
        check.add(spoilt(observed(seed, sky=0.02 * seed, neighbour=300.0 * (seed % 2))))
    found = [check.columns(names(frame)) for frame in range(N)]
    assert found[1]["noise_ratio"] == pytest.approx(3, rel=0.06)
    assert found[2]["sky_offset"] == pytest.approx(0.5, abs=0.06)
    assert 0.05 < found[3]["bright_excess"] < 0.2
    assert found[4]["masked_excess"] == pytest.approx(8 / SIZE)
    assert found[5]["noise_ratio"] < 0.01
    for frame in (0, *range(6, N)):
        assert found[frame]["noise_ratio"] == pytest.approx(1, abs=0.05)
        assert found[frame]["sky_offset"] == pytest.approx(0, abs=0.06)
        assert (found[frame]["bright_excess"], found[frame]["masked_excess"]) == pytest.approx((0, 0), abs=0.005)
    assert np.isnan(list(check.columns("no such frame").values())).all()


def test_the_order_of_objects_does_not_matter() -> None:
    one, other = PixelCheck(), PixelCheck()
    for seed in range(5):
        one.add(spoilt(observed(seed)))
        other.add(spoilt(observed(4 - seed)))
    for frame in range(N):
        np.testing.assert_equal(one.columns(names(frame)), other.columns(names(frame)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [2, 9, 32])
def test_what_has_no_pixels_says_nothing_and_warns_of_nothing(size: int) -> None:
    """Off the frame, variance of 0, and thumbnails that are all middle."""
    whole = observed(1)
    image, variance, mask = (plane[:, :size, :size].copy() for plane in (whole.image, whole.variance, whole.mask))
    image[0], variance[0], mask[0] = np.nan, np.nan, MaskBit.UNCOVERED
    variance[1] = 0
    found_MK = differences(replace(whole, image=image, variance=variance, mask=mask))
    assert np.isnan(found_MK[0]).all()
    assert found_MK[1, 0] > 5
    assert np.isfinite(found_MK[2:]).all()


def test_a_lone_image_is_held_against_an_empty_sky() -> None:
    whole = spoilt(observed(1))
    first = {name: getattr(whole, name)[5:6] for name in COLUMNS}
    assert differences(replace(whole, **first))[0, 0] == pytest.approx(np.log(1e-3))
