"""The survey's astrometry, read and inverted: against the catalogue's own rows and columns, and against headers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
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
    affine_T23 = grid_affine(frame, ra_deg, dec_deg, config)
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
