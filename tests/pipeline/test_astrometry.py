"""The survey's astrometry, read and inverted: against the catalogue's own rows and columns, and against headers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.astrometry import AsTrans, HeaderSolution
from pipeline.bands import BANDS
from pipeline.frames import read_frame
from pipeline.naming import FrameId, calibration_path, frame_path
from pipeline.survey import ThumbnailConfig
from pipeline.thumbnails import _gnomonic, grid_affine, target_wcs

SOLUTION = AsTrans(
    node_deg=95.0,
    incl_deg=0.02,
    mu=(359.95, 1.1e-4, 4e-9),
    nu=(-0.0089, -2.5e-8, 1.1e-4),
    d_row=(0.007, -3e-5, 2.9e-8, -7e-12),
    d_col=(-0.28, 1.2e-3, -1.1e-6, 3e-10),
)


@settings(max_examples=100, deadline=None)
@given(x=st.floats(-200, 2248), y=st.floats(-200, 1689))
def test_the_full_solution_inverts_itself_across_ra_zero(x: float, y: float) -> None:
    """The field straddles RA 0, its distortion is as large as the camera's."""
    ra_deg, dec_deg = SOLUTION.pixel_to_world(np.array([x]), np.array([y]))
    back_x, back_y = SOLUTION.world_to_pixel(ra_deg, dec_deg)
    assert abs(back_x[0] - x) < 1e-6
    assert abs(back_y[0] - y) < 1e-6


@settings(max_examples=60, deadline=None)
@given(
    ra=st.floats(0, 360),
    dec=st.floats(-60, 60),
    turn=st.floats(0, 6.2),
    swapped=st.booleans(),
    mirrored=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_header_solution_is_astropys(ra: float, dec: float, turn: float, swapped: bool, mirrored: bool, seed: int):
    """Any pointing, rotation, parity and order of axes: the same sky and the same pixels to 1e-9°, 1e-6 px."""
    cd = 1.1e-4 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * [1, -1 if mirrored else 1]
    order = [1, 0] if swapped else [0, 1]
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [("RA---TAN", "DEC--TAN")[axis] for axis in order]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cd = np.array([ra, dec])[order], (1024.5, 744.5), cd[order]
    wcs.wcs.set()
    cards = {f"CD{i}_{j}": cd[order][i - 1, j - 1] for i in (1, 2) for j in (1, 2)}
    for axis in (1, 2):
        cards |= {f"{name.upper()}{axis}": getattr(wcs.wcs, name)[axis - 1] for name in ("ctype", "crval", "crpix")}
    ours = HeaderSolution.of_header(cards)
    x, y = np.random.default_rng(seed).uniform(-100, 2100, (2, 20))
    world = wcs.wcs_pix2world(np.column_stack([x, y]), 0)
    ra_deg, dec_deg = ours.pixel_to_world(x, y)
    np.testing.assert_allclose((ra_deg - world[:, order[0]] + 180) % 360, 180, atol=1e-9)
    np.testing.assert_allclose(dec_deg, world[:, order[1]], atol=1e-9)
    np.testing.assert_allclose(ours.world_to_pixel(ra_deg, dec_deg), (x, y), atol=1e-6)


GOOD_CARDS = {
    **{"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 0.1, "CRPIX1": 1024.5, "CRPIX2": 744.5},
    **{"CD1_1": 1e-8, "CD1_2": 1.1e-4, "CD2_1": 1.1e-4, "CD2_2": 1e-8},
}


@pytest.mark.parametrize(
    "change",
    [
        {"CD1_2": 0.0, "CD2_1": 0.0, "CD1_1": 0.0},
        {"CD1_1": 1.1e-4, "CD2_2": 1.1e-4},
        {"CD1_1": np.nan},
        {"CRVAL2": 91.0},
        {"CRVAL1": np.inf},
        {"CTYPE1": "GLON-CAR"},
        {"CTYPE2": "RA---TAN"},
        {"CRPIX1": "middle"},
    ],
    ids=["zero", "singular", "nan", "pole", "infinite", "galactic", "twice", "word"],
)
def test_a_header_without_a_solution_is_refused(change: dict[str, object]) -> None:
    HeaderSolution.of_header(GOOD_CARDS)
    with pytest.raises(ValueError, match=r"solution|axes|float"):
        HeaderSolution.of_header(GOOD_CARDS | change)


def open_real(real_data: Path, frame: FrameId, astrometry: str):  # type: ignore[no-untyped-def]
    base = real_data / "archive" / ("das" if frame.layout == "das-dr7" else "")
    table = base / calibration_path(frame)
    return read_frame(base / frame_path(frame), table, None, rerun=frame.rerun, astrometry=astrometry)  # type: ignore[arg-type]


@pytest.mark.real
def test_catalogue_positions_fall_on_the_catalogues_own_pixels(real_data: Path) -> None:
    """Run 94 in r, 900 objects: RA, Dec → (x, y) equals COLC, ROWC less half a pixel to 0.02 px; TAN does not."""
    path = real_data / "archive/sas/dr17/eboss/photoObj/301/94/1/photoObj-000094-1-0012.fits"
    table = fits.getdata(path)
    good = (table["ROWC"][:, 2] > 0) & (table["OBJC_TYPE"] > 0)
    errors = {}
    for astrometry in ("full", "header"):
        frame = open_real(real_data, FrameId("sas-dr8", 94, 301, 1, 12, "r"), astrometry)
        x, y = frame.world_to_pixel(table["RA"][good].astype(float), table["DEC"][good].astype(float))
        errors[astrometry] = np.hypot(x + 0.5 - table["COLC"][good, 2], y + 0.5 - table["ROWC"][good, 2])
    assert good.sum() > 900
    assert np.median(errors["full"]) < 0.02
    assert np.median(errors["full"]) < np.median(errors["header"]) / 2


@pytest.mark.real
@pytest.mark.parametrize("band", BANDS)
def test_full_solution_and_header_agree_as_far_as_tan_can(real_data: Path, band: str) -> None:
    """Both archives, all bands: nowhere more than half a pixel apart, in the mean under 0.02 px for the DR7 files."""
    grid = np.meshgrid(np.linspace(0, 2047, 9), np.linspace(0, 1488, 9))
    for frame in (FrameId("das-dr7", 6377, 40, 4, 399, band), FrameId("sas-dr8", 94, 301, 1, 12, band)):  # type: ignore[arg-type]
        full = open_real(real_data, frame, "full").solution
        header = open_real(real_data, frame, "header").solution
        assert isinstance(header, HeaderSolution)
        x, y = header.world_to_pixel(*full.pixel_to_world(*grid))
        apart = np.hypot(x - grid[0], y - grid[1])
        assert apart.max() < 0.5
        if frame.layout == "das-dr7":
            assert abs((x - grid[0]).mean()) < 0.02
            assert abs((y - grid[1]).mean()) < 0.02


@pytest.mark.real
def test_a_thumbnail_is_small_enough_to_be_affine(real_data: Path) -> None:
    """Every pixel of a thumbnail, through sky and full solution, lies within 1e-3 px of the affine map used for it."""
    frame = open_real(real_data, FrameId("sas-dr8", 94, 301, 1, 12, "g"), "full")
    config = ThumbnailConfig()
    ra_deg, dec_deg = frame.solution.pixel_to_world(np.array([100.0, 1000.0, 1950.0]), np.array([80.0, 700.0, 1400.0]))
    rows, columns = np.indices((32, 32)).reshape(2, -1)
    affine_T23 = grid_affine(frame.solution, ra_deg, dec_deg, config)
    for target in range(3):
        wcs = target_wcs(ra_deg[target], dec_deg[target], size=32, pixel_scale_arcsec=0.396)
        sky = wcs.wcs_pix2world(np.column_stack([columns, rows]), 0)
        x, y = frame.world_to_pixel(sky[:, 0], sky[:, 1])
        affine_y, affine_x = affine_T23[target] @ np.stack([rows, columns, np.ones(1024)])
        assert np.hypot(x - affine_x, y - affine_y).max() < 1e-3


@settings(max_examples=50, deadline=None)
@given(ra=st.floats(0, 360), dec=st.floats(-85, 85), x=st.floats(-300, 300), y=st.floats(-300, 300))
def test_our_tangent_plane_is_that_of_astropy(ra: float, dec: float, x: float, y: float) -> None:
    wcs = target_wcs(ra, dec, size=32, pixel_scale_arcsec=0.396)
    expected_ra, expected_dec = wcs.wcs_pix2world([[15.5 + x, 15.5 + y]], 0)[0]
    step = 0.396 / 3600
    found_ra, found_dec = _gnomonic(np.array([ra]), np.array([dec]), np.array([-x * step]), np.array([y * step]))
    assert abs((found_ra[0, 0] - expected_ra + 180) % 360 - 180) < 1e-10
    assert abs(found_dec[0, 0] - expected_dec) < 1e-10
