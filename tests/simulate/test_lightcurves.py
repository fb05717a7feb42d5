"""Light curves have what tells the classes apart."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.simulate import lightcurves as lc

DAYS = np.arange(-40.0, 120.0, 0.25)
IA = {"peak_mjd": 0.0, "peak_r_mag": 20.0, "redshift": 0.02, "stretch": 1.0, "colour": 0.0}


def _half_width(flux: np.ndarray) -> tuple[float, float]:
    """Days from half maximum up to maximum, and from there down to half."""
    bright = DAYS[flux > flux.max() / 2]
    peak = DAYS[np.argmax(flux)]
    return float(peak - bright.min()), float(bright.max() - peak)


def test_sn_ia_rises_in_18_days_and_falls_more_slowly_redder() -> None:
    curves = {band: lc.sn_ia_flux(DAYS, band, **IA) for band in lc.WAVELENGTH_NM}
    assert curves["r"].max() == pytest.approx(10.0, rel=0.02)
    falls = []
    for flux in curves.values():
        assert (flux[DAYS < -18.5] == 0).all()
        assert (flux[DAYS > -17] > 0).all()
        rise, fall = _half_width(flux)
        assert fall > rise
        falls.append(fall)
    assert falls[0] < falls[1] < falls[2]


def test_sn_ia_has_a_second_maximum_in_i_and_z_only() -> None:
    def maxima(flux: np.ndarray) -> int:
        return int(((flux[1:-1] > flux[:-2]) & (flux[1:-1] > flux[2:])).sum())

    found = {band: maxima(lc.sn_ia_flux(DAYS, band, **IA)) for band in lc.WAVELENGTH_NM}
    assert found == {"u": 1, "g": 1, "r": 1, "i": 2, "z": 2}


def test_sn_ia_reddens_with_time_and_is_faint_in_u() -> None:
    u, g, r = (lc.sn_ia_flux(np.array([0.0, 20.0]), band, **IA) for band in ("u", "g", "r"))
    assert u[0] < 0.6 * g[0]
    assert g[1] / r[1] < 0.7 * g[0] / r[0]


def test_redshift_dilates_time() -> None:
    first = [(lc.sn_ia_flux(DAYS, "r", **{**IA, "redshift": z}) > 0).argmax() for z in (0.0, 0.3)]
    assert DAYS[first[1]] / DAYS[first[0]] == pytest.approx(1.3, rel=0.02)


def test_sn_iip_has_a_plateau_in_r_and_none_in_u() -> None:
    curve = {
        band: lc.sn_iip_flux(DAYS, band, peak_mjd=0, peak_r_mag=20, redshift=0.02, plateau_d=85) for band in ("u", "r")
    }
    at = {day: int(np.searchsorted(DAYS, day)) for day in (10, 60, 110)}
    assert curve["r"][at[60]] > 0.5 * curve["r"][at[10]]
    assert curve["r"][at[110]] < 0.4 * curve["r"][at[60]]
    assert curve["u"][at[60]] < 0.1 * curve["u"].max()


def test_damped_random_walk_has_unit_variance_and_its_time_scale() -> None:
    rng = np.random.default_rng(3)
    mjd = np.arange(0.0, 200_000.0, 20.0)
    walk = lc.damped_random_walk(mjd, 200.0, rng)
    assert walk.var() == pytest.approx(1.0, abs=0.1)
    assert (walk[10:] * walk[:-10]).mean() == pytest.approx(np.exp(-1.0), abs=0.1)  # 200 days apart
    shuffled = np.array([5.0, 1.0, 5.0])
    twice = lc.damped_random_walk(shuffled, 200.0, np.random.default_rng(1))
    assert twice[0] == twice[2], "the same moment has the same value"


def test_rr_lyrae_rises_faster_than_it_falls_and_more_in_g_than_in_z() -> None:
    mjd = np.linspace(0, 0.55, 1001)
    g, z = (lc.rr_lyrae_mag(mjd, band, period_d=0.55, amplitude_g=1.0, mjd_max=0.1) for band in ("g", "z"))
    assert np.ptp(g) == pytest.approx(1.0, abs=0.01)
    assert np.ptp(z) == pytest.approx(0.53, abs=0.01)
    assert (np.diff(g) < 0).mean() == pytest.approx(0.15, abs=0.01)
