"""The standard stars of a dataset's cells as one catalogue, which reads back as what later frames are held against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DatasetError
from pipeline.manifest import Dataset
from pipeline.standards import Standards, read_standards, write_standards
from pipeline.starcatalog import merge, write_catalogue
from pipeline.starphot import Positions
from pipeline.sums import write_sums
from tests.pipeline.small import small_info

ARCSEC_DEG = 1 / 3600


def standards(ra_deg: list[float], magnitudes: list[list[float]], errors: list[list[float]]) -> Standards:
    flux = 10 ** (0.4 * (22.5 - np.array(magnitudes)))
    number = np.isfinite(flux).astype(np.int32) * 3
    return Standards(Positions(np.array(ra_deg), np.zeros(len(ra_deg))), flux, np.array(errors), number)


UNKNOWN = float("nan")
LEFT = standards([10.0, 10.1], [[18, 17, 16, 15.5, 15.2], [19.5] * 5], [[0.01] * 5, [0.02] * 5])
RIGHT = standards(
    [10.1 + 0.5 * ARCSEC_DEG, 10.2], [[19.6, UNKNOWN, 19.5, 19.5, 19.5], [16] * 5], [[0.01, 0.01, 0.02, 0.02, 0.02]] * 2
)


def dataset(path: Path, **cells: Standards) -> Dataset:
    for name, stars in cells.items():
        write_standards(path / "cells" / f"{name}.stars.parquet", stars)
    if cells:
        write_sums(path, {})
    return Dataset(path, small_info(), ())


def test_a_star_of_two_cells_is_one_with_the_mean_weighted_by_errors(tmp_path: Path) -> None:
    """By hand: (19.5 / 0.02² + 19.6 / 0.01²) over (1 / 0.02² + 1 / 0.01²) is 19.58."""
    merged = merge([LEFT, RIGHT])
    magnitudes = 22.5 - 2.5 * np.log10(merged.flux_nmgy_S5)
    assert merged.positions.ra_deg_S.tolist() == [10.0, 10.1, 10.2]
    np.testing.assert_allclose(magnitudes[1], [19.58, 19.5, 19.5, 19.5, 19.5], atol=1e-9)
    np.testing.assert_allclose(merged.error_mag_S5[1, :2], [(1 / 0.02**2 + 1 / 0.01**2) ** -0.5, 0.02])
    assert merged.n_frames_S5[1].tolist() == [6, 3, 6, 6, 6]


def test_the_catalogue_reads_back_as_a_reference(tmp_path: Path) -> None:
    out = tmp_path / "stars.csv"
    assert write_catalogue(dataset(tmp_path, a=LEFT, b=RIGHT), out) == 3
    read = read_standards(out, out.read_bytes())
    expected = merge([LEFT, RIGHT])
    np.testing.assert_allclose(read.positions.ra_deg_S, expected.positions.ra_deg_S, atol=1e-7)
    np.testing.assert_allclose(read.flux_nmgy_S5, expected.flux_nmgy_S5, rtol=1e-4)


def test_a_band_that_is_not_known_is_left_empty(tmp_path: Path) -> None:
    out = tmp_path / "stars.csv"
    write_catalogue(dataset(tmp_path, b=RIGHT), out)
    assert out.read_text().splitlines()[1].split(",")[2:4] == ["19.6000", ""]
    assert np.isnan(read_standards(out, out.read_bytes()).flux_nmgy_S5[0, 1])


def test_stars_that_are_not_the_published_ones_make_no_catalogue(tmp_path: Path) -> None:
    made = dataset(tmp_path, a=LEFT, b=RIGHT)
    write_standards(tmp_path / "cells" / "b.stars.parquet", LEFT)
    with pytest.raises(DatasetError, match=r"b\.stars\.parquet does not have the sha256 of SHA256SUMS"):
        write_catalogue(made, tmp_path / "stars.csv")


def test_a_dataset_without_standards_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"no cell of tiny-0123456789ab has made standard stars: its \[calibration\] reference"
    ):
        write_catalogue(dataset(tmp_path), tmp_path / "stars.csv")
    assert not (tmp_path / "stars.csv").exists()
