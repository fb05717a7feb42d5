"""Objects by their light curves: what an object cannot do itself is found, what it can do is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pipeline.manifest import ObjectRow
from pipeline.report.measure import LightCurve, measure
from pipeline.report.outliers import BEYOND, OBJECT_LONE, OBJECT_PLACE, rank_objects
from pipeline.report.residuals import lone_fraction, measured_columns
from tests.pipeline.test_report import observed, spot

N_NIGHTS = 40
LEVEL_B = np.array([8.0, 20.0, 30.0, 35.0, 38.0])


def drawn() -> np.random.Generator:
    return np.random.default_rng(82)


def curve(flux_EB: np.ndarray, off_middle_arcsec: float = 0.05, class_name: str = "Variable", name: str = "1"):
    """A light curve in ugriz with errors of half a nanomaggy, drawn."""
    n = flux_EB.size
    band_M, night_M = np.tile(np.arange(1, 6), len(flux_EB)), np.repeat(np.arange(len(flux_EB)), 5)
    return LightCurve(
        row=ObjectRow(name, class_name, "spectroscopic", 0.0, 0.0, 0, "f", "s", n),
        band_id_M=band_M.astype(np.uint8),
        mjd_tai_M=53600.0 + 3 * night_M + 1e-3 * band_M,
        run_M=(5000 + night_M).astype(np.int32),
        camcol_M=np.ones(n, np.uint8),
        flux_nmgy_M=flux_EB.ravel() + 0.5 * drawn().standard_normal(n),
        error_nmgy_M=np.full(n, 0.5),
        ok_M=np.ones(n, bool),
        psf_fwhm_arcsec_M=np.ones(n, np.float32),
        sky_nmgy_arcsec2_M=np.ones(n, np.float32),
        coverage_M=np.ones(n, np.float32),
        masked_fraction_M=np.zeros(n),
        zp_offset_mag_M=np.zeros(n, np.float32),
        off_middle_arcsec=off_middle_arcsec,
    )


def night() -> np.ndarray:
    return np.arange(N_NIGHTS)[:, None]


def rr_lyrae() -> np.ndarray:
    """Another phase every night; twice as much in g as in z."""
    phase = drawn().uniform(0, 1, (N_NIGHTS, 1))
    return LEVEL_B * (1 + np.array([0.5, 0.5, 0.35, 0.3, 0.25]) * np.cos(2 * np.pi * phase))


def supernova() -> np.ndarray:
    """Rises in ten days and reddens, on a host that is red and bright."""
    age = 3.0 * (night() - 15)
    light = np.where(age > 0, np.exp(-np.maximum(age, 0) / np.array([8, 14, 25, 35, 40])), np.exp(age / 4))
    return np.array([1.0, 5, 15, 25, 35]) + np.array([20.0, 40, 40, 30, 25]) * light


@pytest.mark.parametrize(
    "flux_EB", [rr_lyrae(), supernova(), np.tile(LEVEL_B, (N_NIGHTS, 1))], ids=["rr", "sn", "host"]
)
def test_what_the_sky_does_is_no_fault(flux_EB: np.ndarray) -> None:
    assert lone_fraction(curve(flux_EB)) <= 0.01


def test_a_host_that_follows_the_seeing_is_no_fault() -> None:
    seeing = drawn().uniform(0.8, 1.2, (N_NIGHTS, 1))
    assert lone_fraction(curve(LEVEL_B * seeing)) <= 0.01


def test_points_that_are_off_in_one_band_alone_are_counted() -> None:
    flux_EB = np.tile(LEVEL_B, (N_NIGHTS, 1))
    flux_EB[np.arange(0, 40, 2), np.tile([1, 2, 3, 4], 5)] *= 1.5
    assert lone_fraction(curve(flux_EB)) == pytest.approx((20 - 2) / 200, abs=0.015)


def test_a_short_light_curve_says_nothing() -> None:
    assert np.isnan(lone_fraction(curve(np.tile(LEVEL_B, (5, 1)))))


@pytest.mark.parametrize(("north", "west"), [(0, 0), (5, 0), (-3, 4)])
def test_light_off_the_middle_is_measured(north: int, west: int) -> None:
    """Pixels of 0.396 arcsec; the oracle is where the star was put."""
    sequence = observed("690")
    image = spot(60.0, north=north, west=west) + 0.05 * drawn().standard_normal(sequence.image.shape)
    moved = replace(sequence, image=image.astype(np.float32), mask=np.zeros_like(sequence.mask))
    row = ObjectRow("690", "AGN", "spectroscopic", 0.0, 0.0, 0, "f", "s", len(sequence))
    assert measure(row, moved).off_middle_arcsec == pytest.approx(0.396 * np.hypot(north, west), abs=0.05)


def test_each_object_is_held_against_its_class_and_the_faulty_ones_come_first() -> None:
    """Hosts beside their supernovae are usual; a quasar that is not where the list has it is not."""
    rng = np.random.default_rng(1)
    steady = np.tile(LEVEL_B, (N_NIGHTS, 1))
    curves = [curve(rr_lyrae(), 0.05, "AGN", f"a{k}") for k in range(30)]
    curves += [curve(supernova(), float(rng.uniform(0, 2.5)), "SNIa", f"s{k}") for k in range(30)]
    spotted = steady.copy()
    spotted[::3, 2] *= 1.6
    curves += [curve(steady, 2.0, "AGN", "shifted"), curve(spotted, 0.05, "AGN", "spotted")]
    objects = [one.row for one in curves]
    manifest = pa.table({"object_id": [row.object_id for row in objects]})
    found = rank_objects(manifest, measured_columns(curves[1:], objects))
    blamed = {objects[one.row].object_id: one.quantity for one in found.worst if one.score >= BEYOND}
    assert blamed == {"shifted": OBJECT_PLACE, "spotted": OBJECT_LONE}
