"""The join of objects and exposures, against brute force with astropy's rotations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from astropy.coordinates import SkyCoord, UnitSphericalRepresentation
from astropy.coordinates.matrix_utilities import rotation_matrix
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.exposures import ExposureIndex
from pipeline.footprint import FRAME_COLUMNS, FRAME_ROWS, choose_fields, covering

SCALE_DEG = 1.1e-4


def make_index(mu_deg: Any, nu_deg: Any, **columns: Any) -> ExposureIndex:
    """Upright fields whose first pixel is at (mu, nu), all other columns as given or plain."""
    mu, nu = np.asarray(mu_deg, float), np.asarray(nu_deg, float)
    n = len(mu)
    zero, scale = np.zeros(n), np.full(n, SCALE_DEG)
    plain: dict[str, Any] = {
        "archive": np.full(n, "das"),
        "run": np.full(n, 94),
        "rerun": np.full(n, 40),
        "camcol": np.full(n, 1),
        "field": np.arange(11, 11 + n),
        "quality": np.full(n, 3),
        "mjd_tai_N5": np.full((n, 5), 53650.0),
        "psf_fwhm_N5": np.full((n, 5), 1.3),
        "sky_N5": np.full((n, 5), np.nan),
        "image_status_N5": np.zeros((n, 5), int),
        "calib_status_N5": np.zeros((n, 5), int),
        "node_deg": np.full(n, 95.0),
        "incl_deg": zero,
        "mu_N3": np.stack([mu, scale, zero], axis=1),
        "nu_N3": np.stack([nu, zero, scale], axis=1),
    }
    return ExposureIndex(**{**plain, **{name: np.asarray(value) for name, value in columns.items()}})


def rotate(lon_deg: Any, lat_deg: Any, *turns: Any) -> tuple[Any, Any]:
    """Longitude and latitude [deg] after astropy's rotation matrices, the first applied first."""
    at = SkyCoord(lon_deg, lat_deg, unit="deg").cartesian
    for turn in turns:
        at = at.transform(turn)
    turned = at.represent_as(UnitSphericalRepresentation)
    return turned.lon.deg, turned.lat.deg


def brute_force(
    index: ExposureIndex, ra_deg: Any, dec_deg: Any, margin_px: float
) -> dict[tuple[int, int], tuple[float, float]]:
    """(object, exposure) → (x, y), one exposure at a time, every object."""
    found = {}
    for n, (node_deg, incl_deg) in enumerate(zip(index.node_deg, index.incl_deg, strict=True)):
        lon, lat = rotate(ra_deg, dec_deg, rotation_matrix(node_deg, "z"), rotation_matrix(incl_deg, "x"))
        d_mu = (lon + node_deg - index.mu_N3[n, 0] + 180) % 360 - 180
        matrix = np.array([index.mu_N3[n, 1:], index.nu_N3[n, 1:]])
        rows, columns = np.linalg.solve(matrix, np.array([d_mu, lat - index.nu_N3[n, 0]]))
        for t, (row, column) in enumerate(zip(rows, columns, strict=True)):
            if 0 <= row < FRAME_ROWS and -margin_px <= column < FRAME_COLUMNS + margin_px:
                found[t, n] = (column - 0.5, row - 0.5)
    return found


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    centre_deg=st.sampled_from([0.0, 359.9, 20.0, 180.0, 95.0]),
    incl_deg=st.sampled_from([0.0, 0.009477, 5.0, 48.0]),
    node_deg=st.sampled_from([95.0, 286.855205, 0.0]),
    margin_px=st.sampled_from([0, 16]),
)
def test_covering_equals_brute_force(seed, centre_deg, incl_deg, node_deg, margin_px):
    """Any great circle, any side of RA 0, tilted affine solutions: the same pairs and pixels as one by one."""
    rng = np.random.default_rng(seed)
    index = make_index(
        (centre_deg + rng.uniform(-0.3, 0.3, 6)) % 360,
        rng.uniform(-1.2, 1.0, 6),
        node_deg=np.where(rng.random(6) < 0.5, node_deg, 95.0),
        incl_deg=np.where(rng.random(6) < 0.5, incl_deg, 0.0),
    )
    index.mu_N3[:, 1:] += rng.normal(0, 1e-6, (6, 2))
    index.nu_N3[:, 1:] += rng.normal(0, 1e-6, (6, 2))
    # Objects near the fields: a point of each field's surroundings, brought back to the sky by astropy.
    pick = rng.integers(0, 6, 15)
    lon = index.mu_N3[pick, 0] - index.node_deg[pick] + rng.uniform(-0.05, 0.2, 15)
    lat = index.nu_N3[pick, 0] + rng.uniform(-0.05, 0.3, 15)
    ra, dec = np.empty(15), np.empty(15)
    for n, (node, incl) in enumerate(zip(index.node_deg[pick], index.incl_deg[pick], strict=True)):
        ra[n], dec[n] = rotate(lon[n], lat[n], rotation_matrix(-incl, "x"), rotation_matrix(-node, "z"))

    pairs = covering(index, ra, dec, margin_px=margin_px)
    expected = brute_force(index, ra, dec, margin_px)
    found = list(zip(pairs.target_index.tolist(), pairs.exposure_index.tolist(), strict=True))
    assert found == sorted(expected)
    for pair, x_pix, y_pix in zip(found, pairs.x_pix, pairs.y_pix, strict=True):
        assert (x_pix, y_pix) == pytest.approx(expected[pair], abs=1e-5)


def test_a_field_across_ra_zero_holds_objects_on_both_sides():
    index = make_index([359.95], [-0.1])
    pairs = covering(index, np.array([359.99, 0.0, 0.05, 0.2, 180.0]), np.zeros(5))
    assert pairs.target_index.tolist() == [0, 1, 2]
    np.testing.assert_allclose(pairs.y_pix, np.array([0.04, 0.05, 0.1]) / SCALE_DEG - 0.5, atol=1e-6)


def test_the_centre_of_the_first_pixel_is_zero():
    index = make_index([10.0], [0.0])
    pairs = covering(index, np.array([10 + 0.5 * SCALE_DEG]), np.array([0.5 * SCALE_DEG]))
    assert (pairs.x_pix[0], pairs.y_pix[0]) == pytest.approx((0, 0), abs=1e-6)


@pytest.mark.parametrize("broken", [0.0, -9999.0, np.nan])
def test_a_field_without_astrometry_covers_nothing(broken):
    """Holes of the survey have zeros or -9999 in place of a solution."""
    index = make_index([10.0, 10.0], [0.0, 0.0])
    index.mu_N3[0], index.nu_N3[0] = broken, broken
    assert covering(index, np.array([10.05]), np.array([0.05])).exposure_index.tolist() == [1]


def test_nothing_to_join_gives_nothing():
    assert len(covering(make_index([], []), np.array([1.0]), np.array([0.0]))) == 0
    assert len(covering(make_index([1.0], [0.0]), np.array([]), np.array([]))) == 0


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_one_field_per_object_run_and_camcol_the_one_farthest_from_the_row_edges(seed):
    rng = np.random.default_rng(seed)
    index = make_index(
        10 + rng.integers(0, 4, 12) * 0.1497,
        np.full(12, -0.1),
        run=rng.integers(0, 3, 12),
        camcol=rng.integers(1, 3, 12),
    )
    pairs = covering(index, rng.uniform(10, 10.6, 8), np.zeros(8))
    chosen = choose_fields(pairs, index, ("das",))

    def key(footprint, n):
        exposure = footprint.exposure_index[n]
        return int(footprint.target_index[n]), int(index.run[exposure]), int(index.camcol[exposure])

    best: dict[tuple[int, int, int], float] = {}
    for n in range(len(pairs)):
        best[key(pairs, n)] = max(best.get(key(pairs, n), -9), min(pairs.y_pix[n], 1488 - pairs.y_pix[n]))
    assert [key(chosen, n) for n in range(len(chosen))] == sorted(best)
    for n in range(len(chosen)):
        assert min(chosen.y_pix[n], 1488 - chosen.y_pix[n]) == best[key(chosen, n)]


def test_of_two_archives_with_the_same_run_the_first_is_taken_then_the_highest_rerun():
    index = make_index(
        [10.0] * 4, [-0.1] * 4, archive=["sas", "das", "das", "das"], rerun=[301, 40, 41, 40], field=[12, 12, 12, 13]
    )
    pairs = covering(index, np.array([10.08]), np.array([0.0]))
    assert len(pairs) == 4
    assert choose_fields(pairs, index, ("das", "sas")).exposure_index.tolist() == [2]
    assert choose_fields(pairs, index, ("sas", "das")).exposure_index.tolist() == [0]
