"""What was put in comes out: flux, position, time and noise, measured on the written files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import sep
from astropy.io import fits
from astropy.wcs import WCS

from pipeline.astrometry import AsTrans
from pipeline.simulate.archive import SimulationResult
from pipeline.simulate.render import add_noise

# Real headers say RADECSYS; astropy says that they should not.
pytestmark = pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")

APERTURE_PX = 12.0
"""Holds all of a double Gaussian of this seeing."""


def _astrans(row: np.void, node: float, incl: float, index: int | None, letters: str = "abcdef") -> AsTrans:
    """The full solution, in the code that reads real files (which was written apart from the simulation's)."""
    names = {name.lower(): name for name in row.array.names}

    def value(name: str) -> float:
        cell = row[names[name]]
        return float(cell if index is None else cell[index])

    terms = [value(letter) for letter in letters]
    return AsTrans(
        node,
        incl,
        (terms[0], terms[1], terms[2]),
        (terms[3], terms[4], terms[5]),
        tuple(value(f"drow{k}") for k in range(4)),  # type: ignore[arg-type]
        tuple(value(f"dcol{k}") for k in range(4)),  # type: ignore[arg-type]
    )


def _fpc(root: Path) -> tuple[np.ndarray, AsTrans, WCS]:
    """An fpC calibrated by the DR7 recipe: maggies = counts / 53.907456 × 10^(0.4 (aa + kk airmass))."""
    path = next(root.rglob("fpC-005582-r4-*.fit.gz"))
    with fits.open(path) as hdus:
        counts, wcs = hdus[0].data.astype(float) - hdus[0].header["SOFTBIAS"], WCS(hdus[0].header)
    with fits.open(next(root.rglob("tsField-005582-*.fit"))) as hdus:
        row, header = hdus[1].data[0], hdus[0].header
        scale = 1e9 / 53.907456 * 10 ** (0.4 * (row["aa"][2] + row["kk"][2] * row["airmass"][2]))
        return counts * scale, _astrans(row, header["NODE"], header["INCL"], 2), wcs


def _frame(root: Path) -> tuple[np.ndarray, AsTrans, WCS]:
    with fits.open(next(root.rglob("frame-r-000125-*.fits.bz2"))) as hdus:
        row = hdus[3].data[0]
        solution = _astrans(row, row["NODE"], row["INCL"], None)
        return hdus[0].data.astype(float), solution, WCS(hdus[0].header)


@pytest.mark.parametrize("read", [_fpc, _frame])
def test_stars_have_their_flux_and_place(read, tiny: SimulationResult) -> None:  # type: ignore[no-untyped-def]
    """Flux to 3 mmag in the median and within its error, position to 0.01 px by the full solution."""
    image, solution, wcs = read(tiny.root)
    stars = pq.read_table(tiny.root / "truth" / "stars.parquet").to_pydict()
    ra, dec, flux = (np.array(stars[key]) for key in ("ra_deg", "dec_deg", "flux_r_nmgy"))
    x, y = solution.world_to_pixel(ra, dec)
    inside = (x > 40) & (x < 2007) & (y > 40) & (y < 1448)
    distance = np.hypot(x[:, None] - x, y[:, None] - y)
    crowded = ((distance < 30) & (flux > 0.02 * flux[:, None])).sum(axis=1) > 1
    bright = (flux > 100) & (flux < 2000)
    chosen = inside & bright & ~crowded
    assert chosen.sum() > 10
    x, y, flux = x[chosen], y[chosen], flux[chosen]
    measured, _, _ = sep.sum_circle(image, x, y, APERTURE_PX, bkgann=(15.0, 25.0))
    ratio = measured / flux
    assert np.median(ratio) == pytest.approx(1.0, abs=0.003)
    found_x, found_y, _ = sep.winpos(image - np.median(image), x, y, np.full(x.size, 1.3))
    offsets = np.median([found_x - x, found_y - y], axis=1)
    assert np.abs(offsets).max() < 0.01
    # The header's TAN solution has the reference point's distortion only: some tenths of a pixel off, as real.
    header_x, header_y = wcs.wcs_world2pix(ra[chosen], dec[chosen], 0)
    header_offsets = np.hypot(header_x - x, header_y - y)
    assert header_offsets.max() < 0.6


@pytest.mark.parametrize(("level", "gain", "dark"), [(25.0, 1.6, 12.6025), (150.0, 4.76, 1.3225), (90.0, 4.775, 9.61)])
def test_noise_has_the_variance_and_skewness_of_photons(level: float, gain: float, dark: float) -> None:
    """Variance = counts / gain + dark variance within 0.5 %, third moment that of the Poisson law."""
    sky = np.full((1000, 2048), level, dtype=np.float32)
    dn = add_noise(sky, gain, dark, np.random.default_rng(1)).astype(float)
    variance = level / gain + dark
    assert dn.mean() == pytest.approx(level, abs=0.02)
    assert dn.var() == pytest.approx(variance, rel=0.005)
    assert ((dn - level) ** 3).mean() == pytest.approx(level / gain**2, abs=4 * np.sqrt(15 * variance**3 / dn.size))


def test_noise_on_the_written_image_is_that_of_its_tables(empty: SimulationResult) -> None:
    """Within 2 %, mean and variance of an empty field against tsField's sky, gain, dark variance and zero point."""
    dn = fits.getdata(sorted(empty.root.rglob("fpC-005582-r4-*.fit.gz"))[0]).astype(float) - 1000
    row = fits.getdata(sorted(empty.root.rglob("tsField-005582-*.fit"))[0], 1)[0]
    per_dn = 10 ** (0.4 * (row["aa"][2] + row["kk"][2] * row["airmass"][2])) / 53.907456
    sky_dn = row["sky"][2] * 0.396**2 / per_dn
    quiet = dn[np.abs(dn - sky_dn) < 40]  # leaves the three objects out
    assert quiet.mean() == pytest.approx(sky_dn, rel=0.01)
    assert quiet.var() == pytest.approx(sky_dn / row["gain"][2] + row["dark_variance"][2], rel=0.02)


def test_truth_is_at_the_middle_of_the_exposure_of_the_objects_row(tiny: SimulationResult) -> None:
    """TAI of row 0 + row × C_OBS - EXPTIME / 2: the relation that photoField's MJD and TAI columns have."""
    objects = {row["object_id"]: row for row in pq.read_table(tiny.root / "truth" / "objects.parquet").to_pylist()}
    path = next(tiny.root.rglob("fpC-005582-r4-*.fit.gz"))
    header, (_, solution, _) = fits.getheader(path), _fpc(tiny.root)
    epochs = pq.read_table(tiny.root / "truth" / "epochs.parquet").to_pylist()
    checked = 0
    for epoch in epochs:
        if (epoch["run"], epoch["band"]) == (5582, "r"):
            where = objects[epoch["object_id"]]
            _, y = solution.world_to_pixel(np.array([where["ra_deg"]]), np.array([where["dec_deg"]]))
            tai_s = header["TAI"] + float(y[0]) * header["C_OBS"] * 1e-6 - float(header["EXPTIME"]) / 2
            assert epoch["mjd_tai"] * 86400 == pytest.approx(tai_s, abs=0.1)
            checked += 1
    assert checked >= 9
    rows = list(csv.DictReader((tiny.root / "stripe82" / "Field.csv").read_text().splitlines()))
    mjd = next(float(row["mjd_r"]) for row in rows if row["run"] == "5582")
    assert mjd * 86400 == pytest.approx(header["TAI"], abs=0.02)
