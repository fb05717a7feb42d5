"""The light-curve table: every image once, in order, measured as `forced_photometry` does, readable by object."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units
from astropy.units import zero_point_flux
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import lightcurvefile
from pipeline.errors import DatasetError, SequenceError
from pipeline.forced import forced_photometry
from pipeline.lightcurvefile import write_light_curves
from pipeline.lightcurves import LIGHT_CURVE_SCHEMA, PhotometryFlag, as_astropy, read_light_curve
from pipeline.manifest import Dataset
from tests.pipeline.small import small_dataset
from tests.test_architecture import loaded_by


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return small_dataset(tmp_path / "dataset")


@pytest.mark.parametrize("rows_per_group", [1, 6, 100_000])
@pytest.mark.parametrize("background", [False, True])
def test_every_image_has_its_row(
    dataset: Dataset, tmp_path: Path, rows_per_group: int, background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lightcurvefile, "ROWS_PER_GROUP", rows_per_group)
    out = tmp_path / "lightcurves.parquet"
    assert write_light_curves(dataset, out, subtract_background=background) == 15
    table = pq.read_table(out)
    ids, times = table["object_id"].to_pylist(), table["mjd_tai"].to_pylist()
    assert list(zip(ids, times, strict=True)) == sorted(zip(ids, times, strict=True))
    for row in dataset.objects:
        sequence = dataset.sequence(row)
        measured = forced_photometry(sequence, subtract_background=background)
        found = read_light_curve(out, row.object_id)
        assert found.num_rows == row.n_images
        zeropoint = ("zp_offset_mag", "zp_error_mag", "zp_flags")
        for name in ("mjd_tai", "run", "camcol", "field", "psf_fwhm_arcsec", *zeropoint):
            np.testing.assert_array_equal(found[name].to_numpy(), getattr(sequence, name))
        assert found["band"].to_pylist() == ["ugriz"[band_id - 1] for band_id in sequence.band_id]
        np.testing.assert_array_equal(found["flags"].to_numpy(), measured.flags_M)
        for kind in ("aperture", "psf", "matched"):
            for what in ("flux", "error"):
                expected = getattr(measured, f"{kind}_{what}_M").astype(np.float32)
                np.testing.assert_array_equal(found[f"{kind}_{what}_nmgy"].to_numpy(), expected)


def test_the_file_says_what_it_is_and_is_the_same_each_time(dataset: Dataset, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_light_curves(dataset, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    schema = pq.read_schema(tmp_path / "a")
    assert schema.equals(LIGHT_CURVE_SCHEMA)
    assert schema.metadata[b"dataset_id"] == b"tiny-0123456789ab"
    assert schema.metadata[b"background"] == b"none"
    assert schema.field("psf_flux_nmgy").metadata[b"unit"] == b"nanomaggy"
    assert all(field.metadata[b"description"] for field in schema)
    assert all(
        f"{flag.value} {flag.name}" in schema.field("flags").metadata[b"description"].decode()
        for flag in PhotometryFlag
    )


def test_an_astropy_table_has_units(dataset: Dataset, tmp_path: Path) -> None:
    write_light_curves(dataset, tmp_path / "a")
    table = as_astropy(read_light_curve(tmp_path / "a", "679"))
    assert table.colnames == LIGHT_CURVE_SCHEMA.names
    assert len(table) == 5
    with_zero_point = zero_point_flux(3631 * units.Jy)
    assert table["psf_flux_nmgy"].unit.to(units.Jy, equivalencies=with_zero_point) == pytest.approx(3.631e-6)
    assert table["mjd_tai"].unit == "d"
    assert table["band"].description == "u, g, r, i or z"


def test_a_damaged_object_leaves_no_table_and_the_old_one_stays(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "lightcurves.parquet"
    write_light_curves(dataset, out)
    before = out.read_bytes()
    (dataset.path / dataset.objects[-1].file).write_bytes(b"x")
    with pytest.raises(SequenceError, match="is not a sequence as it was written"):
        write_light_curves(dataset, out)
    assert out.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dataset", "lightcurves.parquet"]


def test_what_cannot_be_read_is_one_error(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "lightcurves.parquet"
    with pytest.raises(DatasetError, match=r"cannot read light curves from .*lightcurves\.parquet"):
        read_light_curve(out, "7")
    out.write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(DatasetError, match="cannot read light curves"):
        read_light_curve(out, "7")
    pq.write_table(pa.table({"object_id": ["7"]}), out)
    with pytest.raises(DatasetError, match=r"no table of light curves: it lacks \['aperture_error_nmgy'"):
        read_light_curve(out, "7")
    write_light_curves(dataset, out)
    with pytest.raises(DatasetError, match="no light curve of object '8'"):
        read_light_curve(out, "8")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_table_gives_the_right_fluxes_or_one_error(
    dataset: Dataset, tmp_path: Path, place: float, bit: int, cut: bool
) -> None:
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    if not whole.exists():
        write_light_curves(dataset, whole)
    content = bytearray(whole.read_bytes())
    footer = int.from_bytes(content[-8:-4], "little") + 8  # to it, Parquet gives no checksum
    where = int(place * (len(content) - footer))
    content[where] ^= 1 << bit
    damaged.write_bytes(content[:where] if cut else content)
    with suppress(DatasetError):  # any other error fails the test
        found = read_light_curve(damaged, "679")
        assert str(found.to_pydict()) == str(read_light_curve(whole, "679").to_pydict())


def test_a_training_machine_needs_no_astronomy_to_read_them() -> None:
    assert not loaded_by("import pipeline.lightcurves") & {"astropy", "sep", "scipy", "numba", "torch"}


def test_measuring_them_needs_no_more_than_sep() -> None:
    assert not loaded_by("import pipeline.lightcurvefile, pipeline.export") & {"astropy", "scipy", "numba", "torch"}
