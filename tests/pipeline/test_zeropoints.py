"""Zero points: clouds are found and taken out, clear nights are left alone, and too little evidence changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import CatalogError
from pipeline.fpc import FpcPixels
from pipeline.frame import Frame
from pipeline.frames import read_frame
from pipeline.naming import FrameId, calibration_path, frame_path, mask_path
from pipeline.robust import robust_mean
from pipeline.standards import MeasuredFrame, around, make_standards, merge_positions, read_standards
from pipeline.starphot import Positions, StarFluxes, find_stars, measure_stars
from pipeline.survey import CalibrationConfig
from pipeline.zeropoints import UNCHECKED, ZeropointCheck, ZeropointFlag, apply_check, check_zeropoint

N_STARS = 60
POSITIONS = Positions(np.linspace(350, 350.5, N_STARS), np.linspace(-0.1, 0.1, N_STARS))


def frame_of(
    run: int, true_mag: np.ndarray, offset: float, rng: np.random.Generator, quality: int = 3
) -> MeasuredFrame:
    """A frame that shows a random two thirds of the stars, fainter by `offset`, with 1 % noise."""
    seen = np.flatnonzero(rng.random(N_STARS) < 0.67)
    flux = 10 ** (-0.4 * (true_mag[seen] + offset)) * rng.normal(1, 0.01, seen.size)
    stars = StarFluxes(seen, flux, 0.01 * flux, correction_error=0.001)
    return MeasuredFrame(FrameId("das-dr7", run, 40, 4, 100, "r"), quality, stars)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), clouds=st.lists(st.floats(0.1, 1.0), max_size=4))
def test_clouds_are_measured_to_one_percent(seed: int, clouds: list[float]) -> None:
    """Eight clear nights and some cloudy ones, two variable stars: every frame's offset comes out."""
    rng = np.random.default_rng(seed)
    true_mag = rng.uniform(-8, -4, N_STARS)
    offsets = [*rng.normal(0, 0.003, 8), *clouds]
    frames = [frame_of(6000 + n, true_mag, offset, rng) for n, offset in enumerate(offsets)]
    for one in frames:
        one.stars.flux_nmgy_S[one.stars.star_S < 2] *= rng.uniform(0.5, 2)
    standards = make_standards(POSITIONS, frames)
    shuffled = make_standards(POSITIONS, [frames[k] for k in rng.permutation(len(frames))])
    np.testing.assert_array_equal(standards.flux_nmgy_S5, shuffled.flux_nmgy_S5)
    for one, offset in zip(frames, offsets, strict=True):
        found = check_zeropoint(one.stars, "r", standards, CalibrationConfig())
        assert found.offset_mag == pytest.approx(offset, abs=0.01)
        assert bool(found.flags & ZeropointFlag.CORRECTED) == (abs(found.offset_mag) > max(0.005, 3 * found.error_mag))


def test_nights_that_the_survey_calls_good_make_the_system() -> None:
    """One GOOD night among acceptable ones that are all fainter: it is the standard, the others are off."""
    rng = np.random.default_rng(1)
    true_mag = rng.uniform(-8, -4, N_STARS)
    good = frame_of(4192, true_mag, 0.0, rng)
    hazy = [frame_of(6377 + n, true_mag, 0.08, rng, quality=2) for n in range(3)]
    standards = make_standards(POSITIONS, [*hazy, good])
    checks = [check_zeropoint(one.stars, "r", standards, CalibrationConfig()) for one in (good, *hazy)]
    assert [round(check.offset_mag, 2) for check in checks] == [0.0, 0.08, 0.08, 0.08]
    assert standards.n_frames_S5[:, 2].max() == 1
    assert np.isnan(standards.flux_nmgy_S5[:, 0]).all(), "no frame in u, no flux in u"


def standards_and_frame(offset: float = 0.3):
    rng = np.random.default_rng(3)
    true_mag = rng.uniform(-8, -4, N_STARS)
    clear = [frame_of(6000 + n, true_mag, 0.0, rng) for n in range(5)]
    return make_standards(POSITIONS, clear), frame_of(6100, true_mag, offset, rng).stars


def test_the_rule_follows_its_settings() -> None:
    standards, stars = standards_and_frame(0.3)

    def flags(**settings: object) -> ZeropointFlag:
        return check_zeropoint(stars, "r", standards, CalibrationConfig(**settings)).flags

    assert flags() == ZeropointFlag.CHECKED | ZeropointFlag.CORRECTED
    assert flags(correct="never") == ZeropointFlag.CHECKED
    assert flags(tolerance_mag=0.4) == ZeropointFlag.CHECKED
    assert flags(max_offset_mag=0.2) & ZeropointFlag.BEYOND_LIMIT
    assert flags(max_scatter_mag=0.001) & ZeropointFlag.BEYOND_LIMIT
    too_few = check_zeropoint(stars, "r", standards, CalibrationConfig(min_stars=N_STARS + 1))
    assert too_few.flags == ZeropointFlag.TOO_FEW_STARS
    assert math.isnan(too_few.offset_mag)
    assert too_few.factor == UNCHECKED.factor == 1.0
    elsewhere = check_zeropoint(stars, "u", standards, CalibrationConfig())
    assert (elsewhere.stars, elsewhere.flags) == (0, ZeropointFlag.TOO_FEW_STARS)


def test_a_correction_multiplies_fluxes_and_squares_for_the_variance() -> None:
    record = {
        "image": np.array([[1.0, np.nan]], dtype=np.float32),
        "variance": np.array([[2.0, np.nan]], dtype=np.float32),
        "zeropoint": 0.005,
        "zeropoint_source": 2,
        "sky_nmgy_arcsec2": 3.0,
        "airmass": 1.2,
    }
    check = ZeropointCheck(-2.5 * math.log10(0.8), 0.01, 0.02, 20, ZeropointFlag.CHECKED | ZeropointFlag.CORRECTED)
    corrected = apply_check(record, check)
    np.testing.assert_allclose(corrected["image"], [[1.25, np.nan]], rtol=1e-6)
    np.testing.assert_allclose(corrected["variance"], [[3.125, np.nan]], rtol=1e-6)
    assert corrected["image"].dtype == corrected["variance"].dtype == np.float32
    assert (corrected["zeropoint"], corrected["sky_nmgy_arcsec2"]) == pytest.approx((0.00625, 3.75))
    assert (corrected["zeropoint_source"], corrected["airmass"], corrected["zp_stars"]) == (3, 1.2, 20)
    left = apply_check(record, UNCHECKED)
    assert left["zeropoint_source"] == 2
    np.testing.assert_array_equal(left["image"], record["image"])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(20, 200), outliers=st.floats(0, 0.15))
def test_the_robust_mean_is_not_moved_by_outliers(seed: int, n: int, outliers: float) -> None:
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(0.01, 0.05, n)
    values = 3 + sigma * rng.normal(size=n)
    bad = rng.random(n) < outliers
    values[bad] += rng.uniform(0.3, 3, bad.sum())
    mean, error, _ = robust_mean(values, sigma)
    assert abs(mean - 3) < 6 * error
    assert error < 0.05


def tiny_frame(tiny_archive: Path, run: int, field: int, rerun: int = 40) -> Frame:
    frame = FrameId("das-dr7", run, rerun, 4, field, "r")
    base = tiny_archive / "das"
    files = base / frame_path(frame), base / calibration_path(frame), base / mask_path(frame)
    return read_frame(*files, rerun=rerun)


def dimmed(frame: Frame, by: float) -> Frame:
    """The same night behind a cloud: sources lose light, the sky stays."""
    pixels = frame.pixels
    assert isinstance(pixels, FpcPixels)
    counts_YX = (pixels.sky_YX + by * (pixels.counts_YX - pixels.sky_YX)).astype(np.float32)
    return replace(frame, pixels=replace(pixels, counts_YX=counts_YX))


def test_stars_of_simulated_frames_find_a_cloud_and_nothing_on_clear_nights(tiny_archive: Path) -> None:
    """Through the real files: three clear nights are equal within 1 %, a cloud of 20 % is found to 1 %."""
    frames = [
        tiny_frame(tiny_archive, 5582, 153),
        tiny_frame(tiny_archive, 5637, 111),
        tiny_frame(tiny_archive, 5713, 187, 41),
    ]
    stars = merge_positions(find_stars(frame) for frame in frames)
    assert len(stars) > 40
    measured = [MeasuredFrame(frame.id, 3, measure_stars(frame, stars)) for frame in frames]
    standards = make_standards(stars, measured)
    for one in measured:
        assert abs(check_zeropoint(one.stars, "r", standards, CalibrationConfig()).offset_mag) < 0.01
    cloudy = check_zeropoint(measure_stars(dimmed(frames[0], 0.8), stars), "r", standards, CalibrationConfig())
    assert cloudy.offset_mag == pytest.approx(-2.5 * math.log10(0.8), abs=0.01)
    assert cloudy.flags & ZeropointFlag.CORRECTED


@pytest.mark.real
def test_a_catalogue_of_standards_is_read_and_cut_to_the_cell(real_data: Path) -> None:
    path = real_data / "catalog" / "stripe82_reference_objects.fits"
    standards = read_standards(path, path.read_bytes())
    assert 0 <= standards.positions.ra_deg_S.min() <= standards.positions.ra_deg_S.max() < 360
    known = np.isfinite(standards.flux_nmgy_S5)
    assert known.any(axis=1).all()
    assert (standards.flux_nmgy_S5[known] < 10 ** (0.4 * 8.5)).all()
    near = around(standards, np.array([351.6]), np.array([0.1]), margin_deg=0.2)
    assert 50 < len(near.positions) < len(standards.positions) / 10
    across = around(standards, np.array([359.99, 0.01]), np.array([0.0, 0.0]), margin_deg=0.1)
    assert (np.abs((across.positions.ra_deg_S + 180) % 360 - 180) < 0.12).all()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("ra,dec,u,g,r,i\n10,0,17,16,15,15\n", "no column z"),
        ("ra,u,g,r,i,z\n10,17,16,15,15,15\n", "no column dec"),
        ("ra,dec,u,g,r,i,z\n10,0,nan,-9999,99,,x\n", "no star of magnitude"),
        ("ra,dec,u,g,r,i,z,starnotgal\n10,0,17,16,15,15,15,0\n", "no star of magnitude"),
        ("<html>down for maintenance</html>", "web page|no table|column"),
        ("", "empty|no table|column"),
    ],
)
def test_a_catalogue_that_is_none_is_one_clear_error(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(CatalogError, match=complaint) as caught:
        read_standards(tmp_path / "stars.csv", text.encode())
    assert "stars.csv" in str(caught.value)
