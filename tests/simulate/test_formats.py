"""Simulated files have the structure of the real ones, card by card and column by column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from pipeline.simulate.archive import SimulationResult

REAL_AND_SIMULATED = {
    "fpC": ("das/imaging/6377/40/corr/4/fpC-006377-r4-*.fit.gz", "das/imaging/5582/40/corr/4/fpC-005582-r4-*.fit.gz"),
    "tsField": ("das/imaging/6377/40/calibChunks/4/*.fit", "das/imaging/5582/40/calibChunks/4/*.fit"),
    "fpM": ("das/imaging/6377/40/objcs/4/fpM-006377-r4-*.fit", "das/imaging/5582/40/objcs/4/fpM-005582-r4-*.fit"),
    "frame": (
        "sas/dr17/eboss/photoObj/frames/301/94/1/frame-r-*.fits.bz2",
        "sas/dr17/eboss/photoObj/frames/301/125/4/frame-r-*.fits.bz2",
    ),
    "photoField": (
        "sas/dr17/eboss/photoObj/301/94/photoField-000094-1.fits",
        "sas/dr17/eboss/photoObj/301/125/photoField-000125-4.fits",
    ),
}


def _structure(path: Path) -> list[tuple[object, ...]]:
    """Per HDU: type, bits, image shape, cards in order, and columns with their formats."""
    with fits.open(path, do_not_scale_image_data=True) as hdus:
        return [
            (
                type(hdu).__name__,
                hdu.header["BITPIX"],
                hdu.shape if hdu.is_image else None,
                list(hdu.header),
                None if hdu.is_image else [(column.name, column.format, column.unit) for column in hdu.columns],
            )
            for hdu in hdus
        ]


@pytest.mark.real
@pytest.mark.parametrize("kind", REAL_AND_SIMULATED)
def test_has_the_hdus_cards_and_columns_of_the_real_file(kind: str, tiny: SimulationResult, real_data: Path) -> None:
    real, simulated = REAL_AND_SIMULATED[kind]
    (real_file,), (simulated_file, *_) = sorted((real_data / "archive").glob(real)), sorted(tiny.root.glob(simulated))
    assert _structure(simulated_file) == _structure(real_file)


@pytest.mark.real
def test_master_table_has_the_real_columns_in_the_real_order(tiny: SimulationResult, real_data: Path) -> None:
    real = (real_data / "catalog" / "sdsssn_master_subset_92rows.txt").read_text().splitlines()[0].split()[:-5]
    real = [{"RA_1": "RA", "DEC_1": "DEC"}.get(name, name) for name in real]
    lines = (tiny.root / "sas/dr10/boss/papers/supernova/sdsssn_master.dat2").read_text().splitlines()
    assert lines[0].split() == real
    assert {len(line.split()) for line in lines} == {len(real)}


@pytest.mark.real
def test_sky_noise_in_counts_is_that_of_the_real_frames(tiny: SimulationResult, real_data: Path) -> None:
    """Same CCD: at equal sky the pixel noise of the real and the simulated r image differ by under 5 %."""
    patterns = REAL_AND_SIMULATED["fpC"]
    sigma = []
    for root, pattern in ((real_data / "archive", patterns[0]), (tiny.root, patterns[1])):
        dn = fits.getdata(next(root.glob(pattern))).astype(float)[200:1300, 200:1800] - 1000
        # From neighbours, so that neither gradients nor the wings of stars count.
        differences = np.abs(dn[:, 2:] - dn[:, :-2]) / np.sqrt(2)
        sigma.append(_width(differences) / np.sqrt(np.median(dn) / 4.76 + 1.3225))
    assert sigma[1] == pytest.approx(1.0, abs=0.02)
    assert sigma[0] == pytest.approx(sigma[1], abs=0.05)


def _width(absolute: np.ndarray) -> float:
    """Standard deviation of the Gaussian whose absolute value has these quantiles (integers: interpolated)."""
    edges = np.arange(0, 40, 1 / np.sqrt(2)) + 0.5 / np.sqrt(2)
    share = np.cumsum(np.histogram(absolute, np.append(-1.0, edges))[0]) / absolute.size
    return float(np.interp(0.6827, share, edges))
