"""Thumbnails keep a star's flux to 1 mmag and its place to 0.01 px, and agree with `reproject`."""

from __future__ import annotations

import galsim
import numpy as np
import pytest
from astropy.wcs import WCS

from pipeline.astrometry import HeaderSolution
from pipeline.frame import ArrayPixels, FieldCalibration, Frame, ZeropointSource
from pipeline.identity import SHAPE
from pipeline.naming import FrameId
from pipeline.sequences import MaskBit
from pipeline.survey import ThumbnailConfig
from pipeline.thumbnails import Thumbnails, cut_thumbnails, reference_image, target_wcs

FLUX_NMGY = 100.0


def sdss_wcs(*, swapped: bool = False, turn_deg: float = 0.0) -> WCS:
    """A frame's TAN solution: +column is +Dec, +row is +RA, a rotation of the sky and not a mirror."""
    turn = np.deg2rad(turn_deg)
    along_column = np.array([np.sin(turn), np.cos(turn)]) * 1.09946e-4
    along_row = np.array([np.cos(turn), -np.sin(turn)]) * 1.09990e-4
    cd = np.column_stack([along_column, along_row])
    wcs = WCS(naxis=2)
    order = [1, 0] if swapped else [0, 1]
    wcs.wcs.ctype = [("RA---TAN", "DEC--TAN")[axis] for axis in order]
    wcs.wcs.crval = np.array([351.645, 0.104])[order]
    wcs.wcs.cd = cd[order]
    wcs.wcs.crpix = 1024.5, 744.5
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs


def solution_of(wcs: WCS) -> HeaderSolution:
    """The frame reader's solution from the cards of an astropy WCS."""
    cards: dict[str, object] = {}
    for axis in (1, 2):
        cards |= {f"CTYPE{axis}": wcs.wcs.ctype[axis - 1], f"CRVAL{axis}": wcs.wcs.crval[axis - 1]}
        cards |= {f"CRPIX{axis}": wcs.wcs.crpix[axis - 1]}
        cards |= {f"CD{axis}_{pixel}": wcs.wcs.cd[axis - 1][pixel - 1] for pixel in (1, 2)}
    return HeaderSolution.of_header(cards)


def make_frame(image_YX: np.ndarray, wcs: WCS) -> Frame:
    return Frame(
        id=FrameId("das-dr7", 6377, 40, 4, 399, "r"),
        pixels=ArrayPixels(
            image_YX.astype(np.float32), np.full(SHAPE, 0.04, dtype=np.float32), np.zeros(SHAPE, dtype=np.uint8)
        ),
        solution=solution_of(wcs),
        tai_row0_s=53998.25 * 86400,
        row_clock_s=0.026322,
        exposure_s=53.907456,
        zeropoint_nmgy=0.005,
        zeropoint_source=ZeropointSource.TSFIELD,
        calibration=FieldCalibration(4.7, 1.3, 0.005, 1.2, 3.9, 1.2, 3, 53998.25),
    )


def star_frame(wcs: WCS, x_pix: np.ndarray, y_pix: np.ndarray, fwhm_arcsec: float) -> Frame:
    """Noise-free Moffat stars drawn by GalSim, integrated over square pixels."""
    canvas = galsim.ImageD(SHAPE[1], SHAPE[0], scale=0.396, xmin=0, ymin=0)
    star = galsim.Moffat(beta=3.0, fwhm=fwhm_arcsec, flux=FLUX_NMGY)
    for x, y in zip(x_pix, y_pix, strict=True):
        stamp = star.drawImage(nx=121, ny=121, scale=0.396, center=galsim.PositionD(x, y), dtype=float)
        common = stamp.bounds & canvas.bounds
        canvas[common] += stamp[common]
    return make_frame(canvas.array, wcs)


def star_positions(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Well separated places with random sub-pixel phases."""
    rng = np.random.default_rng(seed)
    grid = np.arange(150, 1400, 250)
    x, y = (axis.ravel() + rng.uniform(-0.5, 0.5, axis.size) for axis in np.meshgrid(grid, grid))
    return x, y


def moments(image_HW: np.ndarray) -> tuple[float, float, float]:
    """Flux inside 8 px and windowed centroid (x, y), by plain sums."""
    y, x = np.indices(image_HW.shape)
    middle = (image_HW.shape[0] - 1) / 2
    window = np.hypot(x - middle, y - middle) < 14
    weight = image_HW * window
    for _ in range(60):
        cx, cy = (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()
        weight = image_HW * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 2.5**2))
        step_x, step_y = (weight * (x - cx)).sum() / weight.sum(), (weight * (y - cy)).sum() / weight.sum()
        cx, cy = cx + 2 * step_x, cy + 2 * step_y
        weight = image_HW * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 2.5**2))
    return float((image_HW * window).sum()), cx - middle, cy - middle


@pytest.mark.parametrize("fwhm_arcsec", [1.0, 1.3, 1.7])
@pytest.mark.parametrize(("swapped", "turn_deg"), [(False, 0.01), (True, -0.3), (False, 17.0)])
def test_flux_to_one_mmag_and_position_to_a_hundredth_of_a_pixel(
    fwhm_arcsec: float, swapped: bool, turn_deg: float
) -> None:
    """The accuracy bars, over random sub-pixel phases, both axis orders and a field rotation.

    The truth for the flux inside the window is the same star drawn by GalSim on the target's own grid.
    """
    wcs = sdss_wcs(swapped=swapped, turn_deg=turn_deg)
    x_pix, y_pix = star_positions()
    frame = star_frame(wcs, x_pix, y_pix, fwhm_arcsec)
    world = wcs.wcs_pix2world(np.column_stack([x_pix, y_pix]), 0)
    cut = cut_thumbnails(frame, world[:, wcs.wcs.lng], world[:, wcs.wcs.lat], ThumbnailConfig(size=51))
    ideal = galsim.Moffat(beta=3.0, fwhm=fwhm_arcsec, flux=FLUX_NMGY).drawImage(nx=51, ny=51, scale=0.396, dtype=float)
    expected_flux, _, _ = moments(ideal.array)
    measured = np.array([moments(image.astype(float)) for image in cut.image_THW])
    error_mmag = 2500 * np.log10(measured[:, 0] / expected_flux)
    assert np.abs(error_mmag).max() < 1.0
    assert np.abs(measured[:, 1:]).max() < 0.01


def test_fast_path_equals_reproject_to_1e_4_of_the_peak() -> None:
    wcs = sdss_wcs(turn_deg=0.02)
    x_pix, y_pix = star_positions()
    frame = star_frame(wcs, x_pix, y_pix, 1.2)
    world = wcs.wcs_pix2world(np.column_stack([x_pix, y_pix]), 0)[:6]
    for kernel in ("quintic", "cubic", "bilinear"):
        config = ThumbnailConfig(kernel=kernel)
        cut = cut_thumbnails(frame, world[:, 0], world[:, 1], config)
        for target, (ra_deg, dec_deg) in enumerate(world):
            reference = reference_image(frame.whole().image_YX, wcs, ra_deg, dec_deg, config)
            assert np.abs(cut.image_THW[target] - reference).max() < 1e-4 * reference.max()


def test_north_is_up_and_east_is_left() -> None:
    """A source North-East of the target lands in the upper left of its thumbnail."""
    wcs = sdss_wcs()
    x_pix, y_pix = np.array([900.0]), np.array([700.0])
    frame = star_frame(wcs, x_pix, y_pix, 1.2)
    (ra_deg, dec_deg) = wcs.wcs_pix2world([[900.0, 700.0]], 0)[0]
    offset = 6 * 0.396 / 3600
    cut = cut_thumbnails(frame, np.array([ra_deg - offset]), np.array([dec_deg - offset]), ThumbnailConfig())
    row, column = np.unravel_index(np.nanargmax(cut.image_THW[0]), (32, 32))
    assert (row, column) == pytest.approx((15.5 + 6, 15.5 - 6), abs=0.51)
    target = target_wcs(ra_deg - offset, dec_deg - offset, size=32, pixel_scale_arcsec=0.396)
    assert target.wcs_world2pix([[ra_deg, dec_deg]], 0)[0] == pytest.approx((15.5 - 6, 15.5 + 6), abs=0.01)


def cut_at(frame: Frame, x: float, y: float) -> Thumbnails:
    ra_deg, dec_deg = sdss_wcs().wcs_pix2world([[x, y]], 0)[0]
    return cut_thumbnails(frame, np.array([ra_deg]), np.array([dec_deg]), ThumbnailConfig())


def test_edges_are_nan_flagged_and_counted() -> None:
    """At the first column, half of the thumbnail is off the frame; further out, all of it; nothing wraps around."""
    frame = make_frame(np.ones(SHAPE), sdss_wcs())
    half = cut_at(frame, -0.5, 700.0)
    assert half.coverage_T[0] == pytest.approx(0.5, abs=0.02)
    uncovered = (half.mask_THW[0] & MaskBit.UNCOVERED) > 0
    np.testing.assert_array_equal(uncovered, np.isnan(half.image_THW[0]))
    np.testing.assert_allclose(half.image_THW[0][~uncovered], 1.0, rtol=2e-3)
    gone = cut_at(frame, -200.0, 700.0)
    assert gone.coverage_T[0] == 0
    assert np.isnan(gone.image_THW).all()


@pytest.mark.parametrize(("x", "y"), [(900.0, 700.0), (900.5, 700.5), (899.7, 700.2)])
def test_a_single_flagged_pixel_is_never_lost(x: float, y: float) -> None:
    """Whatever the sub-pixel phase, it flags the thumbnail pixels that it reaches, and none beyond five pixels."""
    frame = make_frame(np.ones(SHAPE), sdss_wcs())
    frame.whole().mask_YX[700, 900] = MaskBit.CR | MaskBit.INTERP
    mask_HW = cut_at(frame, x, y).mask_THW[0]
    flagged = np.argwhere(mask_HW > 0)
    assert set(mask_HW[mask_HW > 0]) == {MaskBit.CR | MaskBit.INTERP}
    assert np.abs(flagged - 15.5).min(axis=0).max() < 1
    assert np.abs(flagged - 15.5).max() <= 5.5


def test_an_unflagged_pixel_holds_less_than_one_percent_of_a_cosmic_ray() -> None:
    rng = np.random.default_rng(2)
    sky = rng.normal(size=SHAPE)
    frame = make_frame(sky, sdss_wcs(turn_deg=3.0))
    frame.whole().mask_YX[700, 900] = MaskBit.CR
    before = cut_thumbnails(frame, *at(900.3, 700.6, turn_deg=3.0), ThumbnailConfig())
    frame.whole().image_YX[700, 900] += 1000
    after = cut_thumbnails(frame, *at(900.3, 700.6, turn_deg=3.0), ThumbnailConfig())
    change = np.abs(after.image_THW - before.image_THW)
    assert change.max() > 100
    assert change[after.mask_THW == 0].max() < 10


def at(x: float, y: float, **turn: float) -> tuple[np.ndarray, np.ndarray]:
    """RA and Dec of a pixel, as arrays of one."""
    world = sdss_wcs(**turn).wcs_pix2world([[x, y]], 0)
    return world[:, 0], world[:, 1]


def test_a_saturated_trail_does_not_ring_into_its_neighbours() -> None:
    """A bleed trail of 250 nMgy on a flat sky of 1: unflagged pixels stay 1, a plain spline is off by more than one."""
    image = np.ones(SHAPE)
    image[660:740, 899:902] = 250
    frame = make_frame(image, sdss_wcs())
    ringing = cut_at(frame, 905.3, 700.6)
    frame.whole().mask_YX[660:740, 899:902] = MaskBit.SATUR
    kept_out = cut_at(frame, 905.3, 700.6)
    clear = kept_out.mask_THW[0] == 0
    assert clear.mean() > 0.6
    assert np.abs(ringing.image_THW[0][clear] - 1).max() > 1.5
    np.testing.assert_allclose(kept_out.image_THW[0][clear], 1, rtol=2e-3)
    assert np.isfinite(kept_out.image_THW).all()
    assert 0.9 < kept_out.image_THW.min() <= kept_out.image_THW.max() < 251


def test_a_pixel_that_is_no_number_uncovers_what_it_touches_and_no_more() -> None:
    frame = make_frame(np.ones(SHAPE), sdss_wcs())
    frame.whole().image_YX[700, 900] = np.nan
    frame.whole().variance_YX[704, 904] = np.inf
    cut = cut_at(frame, 900.3, 700.6)
    uncovered = np.isnan(cut.image_THW[0])
    np.testing.assert_array_equal(uncovered, (cut.mask_THW[0] & MaskBit.UNCOVERED) > 0)
    np.testing.assert_array_equal(uncovered, np.isnan(cut.variance_THW[0]))
    assert uncovered.sum() == 8
    np.testing.assert_allclose(cut.image_THW[0][~uncovered], 1, rtol=2e-3)


@pytest.mark.parametrize("bit", [MaskBit.SATUR, MaskBit.INTERP])
def test_a_thumbnail_without_one_good_pixel_is_finite_and_flagged(bit: MaskBit) -> None:
    frame = make_frame(np.full(SHAPE, 250.0), sdss_wcs())
    frame.whole().mask_YX[:] = bit
    cut = cut_at(frame, 900.3, 700.6)
    np.testing.assert_allclose(cut.image_THW, 250, rtol=2e-3)
    assert (cut.mask_THW == bit).all()


def test_a_thumbnail_of_no_numbers_is_uncovered() -> None:
    cut = cut_at(make_frame(np.full(SHAPE, np.nan), sdss_wcs()), 900.3, 700.6)
    assert cut.coverage_T[0] == 0
    assert (cut.mask_THW == MaskBit.UNCOVERED).all()


@pytest.mark.parametrize("kernel", ["nearest", "bilinear", "cubic", "quintic"])
@pytest.mark.parametrize(("x", "y", "turn_deg"), [(900.0, 700.0, 0.01), (900.5, 700.5, 0.01), (900.2, 700.7, 17.0)])
def test_noise_is_what_the_variance_says(kernel: str, x: float, y: float, turn_deg: float) -> None:
    """Pure noise: of single pixels as `variance`, of a 3″ aperture as variance / noise factor, within 5 %."""
    sigma = 0.2
    rng = np.random.default_rng(11)
    size, n_frames = 32, 60
    pixels, sums = [], []
    yy, xx = np.indices((size, size)) - 15.5
    circle = np.hypot(yy, xx) < 3 / 0.396
    ra, dec = np.concatenate([at(x + 60 * i, y + 60 * j, turn_deg=turn_deg) for i in range(-4, 5) for j in range(9)], 1)
    config = ThumbnailConfig(size=size, kernel=kernel)
    for _ in range(n_frames // 6):
        frame = make_frame(rng.normal(0, sigma, SHAPE), sdss_wcs(turn_deg=turn_deg))
        cut = cut_thumbnails(frame, ra, dec, config)
        pixels.append((cut.image_THW**2 / cut.variance_THW).mean())
        independent = cut.variance_THW / cut.noise_factor_T[:, None, None]
        sums.append((cut.image_THW[:, circle].sum(axis=1) ** 2 / independent[:, circle].sum(axis=1)).mean())
    assert np.mean(pixels) == pytest.approx(1, abs=0.05)
    assert np.mean(sums) == pytest.approx(1, abs=0.15)  # 810 apertures: 5 % of scatter


def test_time_is_the_middle_of_the_exposure_of_the_objects_row() -> None:
    frame = make_frame(np.ones(SHAPE), sdss_wcs())
    cut = cut_at(frame, 900.0, 1000.0)
    expected = 53998.25 + (1000 * 0.026322 - 53.907456 / 2) / 86400
    assert cut.mjd_tai_T[0] == pytest.approx(expected, abs=1e-9)


def test_thumbnails_do_not_depend_on_who_else_is_cut() -> None:
    """Bit for bit: a neighbour entering the catalogue must not change an object's file."""
    rng = np.random.default_rng(5)
    wcs = sdss_wcs(turn_deg=0.02)
    frame = make_frame(rng.normal(size=SHAPE), wcs)
    world = wcs.wcs_pix2world(rng.uniform(100, 1300, (37, 2)), 0)
    together = cut_thumbnails(frame, world[:, 0], world[:, 1], ThumbnailConfig())
    for target, (ra_deg, dec_deg) in enumerate(world):
        alone = cut_thumbnails(frame, np.array([ra_deg]), np.array([dec_deg]), ThumbnailConfig())
        np.testing.assert_array_equal(alone.image_THW[0], together.image_THW[target])
        np.testing.assert_array_equal(alone.variance_THW[0], together.variance_THW[target])
        assert alone.mjd_tai_T[0] == together.mjd_tai_T[target]


def test_a_large_thumbnail_follows_the_sky_to_its_corners() -> None:
    """200 px across, where one affine map would not do: a source near a corner is where the grid says, to 0.01 px."""
    wcs = sdss_wcs(turn_deg=5.0)
    x_pix, y_pix = np.array([970.3]), np.array([772.8])
    frame = star_frame(wcs, x_pix, y_pix, 1.3)
    star = wcs.wcs_pix2world(np.column_stack([x_pix, y_pix]), 0)[0]
    centre = wcs.wcs_pix2world([[900.0, 700.0]], 0)[0]
    cut = cut_thumbnails(frame, centre[:1], centre[1:], ThumbnailConfig(size=200))
    expected = target_wcs(*centre, size=200, pixel_scale_arcsec=0.396).wcs_world2pix([star], 0)[0]
    column, row = np.rint(expected).astype(int)
    _, dx, dy = moments(cut.image_THW[0][row - 15 : row + 16, column - 15 : column + 16].astype(float))
    assert (column + dx, row + dy) == pytest.approx(tuple(expected), abs=0.01)
