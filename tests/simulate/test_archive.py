"""The archive as a whole: traps of the real one, identical bytes, refusals, and tables that agree with each other."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from scipy.ndimage import map_coordinates

from pipeline.catalog import read_catalog
from pipeline.errors import ConfigError
from pipeline.masks import read_mask
from pipeline.naming import MASTER_TABLE, parse_frame_file
from pipeline.simulate.archive import SimulationResult, simulate_archive
from pipeline.survey import SurveyConfig, load_survey

# Real headers say RADECSYS; astropy says that they should not.
pytestmark = pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")

FRAME_AHEAD = {"g": 8, "r": 0}


def _hashes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.name != "archive.json"
    }


def test_one_seed_gives_the_same_bytes_whatever_the_number_of_workers(
    empty: SimulationResult, empty_survey: SurveyConfig, tmp_path: Path
) -> None:
    again = simulate_archive(empty_survey, tmp_path / "again", workers=2)
    assert _hashes(again.root) == _hashes(empty.root)
    assert again.n_bytes == pytest.approx(empty.n_bytes, abs=100)
    assert not list(tmp_path.glob(".*.part"))


def test_an_archive_of_the_same_configuration_is_reused_and_any_other_refused(
    empty: SimulationResult, empty_survey: SurveyConfig, tmp_path: Path
) -> None:
    before = _hashes(empty.root)
    found = simulate_archive(empty_survey, empty.root)
    assert found.reused
    assert (found.n_files, found.n_images, found.seconds) == (empty.n_files, empty.n_images, empty.seconds)
    with pytest.raises(ConfigError, match="another \\[simulation\\]"):
        simulate_archive(load_survey("tiny"), empty.root)
    (tmp_path / "thesis").mkdir()
    with pytest.raises(ConfigError, match="no simulated archive"):
        simulate_archive(empty_survey, tmp_path / "thesis")
    assert _hashes(empty.root) == before


def test_a_failure_leaves_nothing_behind(
    empty_survey: SurveyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError("disk full")

    monkeypatch.setattr("pipeline.simulate.archive.fpm_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        simulate_archive(empty_survey, tmp_path / "broken", workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"seeed": 1}, "seeed"),
        ({"bands": {}}, "bands"),
        ({"labels": {"Supernova": 3}}, "Supernova"),
        ({"runs": []}, "runs"),
        ({"labels": {"AGN": 9000}}, "do not fit into 800 × 1700 px"),
    ],
)
def test_a_wrong_setting_is_named(section: dict[str, object], message: str, tmp_path: Path) -> None:
    survey = load_survey("tiny")
    wrong = survey.model_copy(update={"simulation": {**(survey.simulation or {}), **section}})
    with pytest.raises(ConfigError, match=message):
        simulate_archive(wrong, tmp_path / "out")


def test_the_index_must_list_the_runs_that_are_written(empty_survey: SurveyConfig, tmp_path: Path) -> None:
    index = tuple(
        one.model_copy(update={"runs": (94,)}) if one.kind == "photofield" else one for one in empty_survey.index
    )
    with pytest.raises(ConfigError, match=r"\[94\].*\[125\]"):
        simulate_archive(empty_survey.model_copy(update={"index": index}), tmp_path / "out")


def test_frame_card_runs_ahead_of_the_field_and_no_card_says_the_field(tiny: SimulationResult) -> None:
    for path in [*tiny.root.rglob("fpC-*.fit.gz"), *tiny.root.rglob("frame-*.fits.bz2")]:
        name = parse_frame_file(path.name, rerun=40)
        header = fits.getheader(path)
        assert header["FRAME"] == name.field + FRAME_AHEAD[name.band]
        assert header.get("FIELD", "NA").strip() == "NA"
        assert (header["RUN"], header["CAMCOL"], header["FILTER"].strip()) == (name.run, name.camcol, name.band)
        assert float(header["EXPTIME"]) == pytest.approx(2048 * header["C_OBS"] * 1e-6)


def test_bands_follow_each_other_and_run_125_has_the_odd_header_of_run_94(tiny: SimulationResult) -> None:
    tai = {path.name[11]: fits.getheader(path)["TAI"] for path in tiny.root.rglob("fpC-005582-*.fit.gz")}
    # The CCDs are not exactly 2 × 1361 rows apart: each has its own row offset.
    assert tai["g"] - tai["r"] == pytest.approx(4 * 71.65, abs=1.0)
    path = next(tiny.root.rglob("frame-r-000125-*.bz2"))
    with fits.open(path) as hdus:
        header, row = hdus[0].header, hdus[3].data[0]
        assert (header["STRIPE"], header["NODE"], header["C_OBS"]) == (100, 284.20539, 26319)
        assert (row["NODE"], row["INCL"]) == (286.855205, 0.009477)
        assert header["DATE-OBS"] == "25/09/98"


def test_a_run_with_swapped_axes_shows_the_same_sky(tiny: SimulationResult) -> None:
    swapped = next(tiny.root.rglob("fpC-005713-r*.fit.gz"))
    usual = next(tiny.root.rglob("fpC-005582-r*.fit.gz"))
    wcs = WCS(fits.getheader(swapped))
    assert list(wcs.wcs.ctype) == ["DEC--TAN", "RA---TAN"]
    assert "/41/corr/" in str(swapped)
    corners = np.array([[0.0, 0.0], [2047.0, 1488.0], [0.0, 1488.0]])
    dec_ra = wcs.wcs_pix2world(corners, 0)
    ra_dec = WCS(fits.getheader(usual)).wcs_pix2world(corners, 0)
    # Runs are up to 150 rows and 20 columns apart.
    assert np.abs(dec_ra[:, ::-1] - ra_dec).max() < 0.05
    # Columns run north, rows run east, in both: a rotation of the sky, not a mirror image.
    assert (np.sign(dec_ra[1, ::-1] - dec_ra[0, ::-1]) == [1, 1]).all()
    assert ra_dec[2, 0] > ra_dec[0, 0]


@pytest.mark.parametrize("pattern", ["fpC-005582-r4-*.fit.gz", "frame-r-000125-4-*.fits.bz2"])
def test_consecutive_fields_share_128_identical_rows(pattern: str, empty: SimulationResult) -> None:
    first, second = (fits.getdata(path) for path in sorted(empty.root.rglob(pattern)))
    assert np.array_equal(first[1361:], second[:128])
    assert not np.array_equal(first[1360], second[0])


def test_the_published_recipe_gives_back_integer_counts(tiny: SimulationResult) -> None:
    """Frame data model: dn = image / calibration + sky; whole numbers to 0.01 where compression did not bite."""
    with fits.open(next(tiny.root.rglob("frame-g-002662-*.bz2"))) as hdus:
        image, calibration, sky = hdus[0].data.astype(float), hdus[1].data.astype(float), hdus[2].data[0]
    grid = np.meshgrid(sky["YINTERP"], sky["XINTERP"], indexing="ij")
    dn = image / calibration + map_coordinates(sky["ALLSKY"].astype(float), grid, order=1, mode="nearest")
    faint = np.abs(image) < 0.05
    assert faint.mean() > 0.8
    assert np.abs(dn - np.rint(dn))[faint].std() < 0.005
    # Ten binary digits, as FLOATCOMPRESS leaves them.
    assert not (image.astype(np.float32).view(np.uint32) & ((1 << 14) - 1)).any()


def test_mask_planes_hold_the_dead_column_cosmic_rays_and_saturated_stars(tiny: SimulationResult) -> None:
    path = next(tiny.root.rglob("fpM-005582-r4-*.fit"))
    with fits.open(path) as hdus:
        rows = {number: hdus[number].data for number in (1, 2, 10)}
        dead = [row for row in rows[1] if row["nspan"] == 1489 or row["rmax"] - row["rmin"] == 1488]
        assert len(dead) == 1
        assert 100 < len(rows[10]) <= 150
        assert len(rows[2]) >= 1
        for row in rows[10]:
            spans = np.asarray(row["s"]).view(">u2").reshape(-1, 3)
            assert (spans[:, 2] - spans[:, 1] + 1).sum() == row["npix"]
    frame = parse_frame_file(next(tiny.root.rglob("fpC-005582-r4-*.fit.gz")).name, rerun=40)
    assert read_mask(path, frame, (1489, 2048)).any()


def test_field_table_agrees_with_the_calibration_tables(tiny: SimulationResult) -> None:
    rows = list(csv.DictReader((tiny.root / "stripe82" / "Field.csv").read_text().splitlines()))
    tables = {path.name: path for path in tiny.root.rglob("tsField-*.fit")}
    assert len(rows) == len(tables) == 4  # three runs, one of them with two fields
    for row in rows:
        run, camcol, rerun, field = (int(row[key]) for key in ("run", "camcol", "rerun", "field"))
        with fits.open(tables[f"tsField-{run:06d}-{camcol}-{rerun}-{field:04d}.fit"]) as hdus:
            data = hdus[1].data[0]
            for index, band in enumerate("ugriz"):
                assert float(row[f"mjd_{band}"]) == pytest.approx(data["mjd"][index], abs=1e-8)
                assert float(row[f"psfWidth_{band}"]) == pytest.approx(data["psf_width"][index], rel=1e-6)
                assert float(row[f"a_{band}"]) == pytest.approx(data["a"][index], abs=1e-9)
        assert float(row["raMin"]) < 347.53 < float(row["raMax"])
        assert float(row["decMin"]) < 0.104 < float(row["decMax"])


def test_catalogue_and_truth_name_the_same_objects(tiny: SimulationResult) -> None:
    catalog = read_catalog(tiny.root / MASTER_TABLE, load_survey("tiny").catalog)
    truth = {row["object_id"]: row for row in pq.read_table(tiny.root / "truth" / "objects.parquet").to_pylist()}
    assert {target.object_id for target in catalog.targets} | {skip.object_id for skip in catalog.skips} == set(truth)
    for target in catalog.targets:
        assert target.ra_deg == pytest.approx(truth[target.object_id]["ra_deg"], abs=1e-6)
        assert target.class_name == truth[target.object_id]["class_name"]
    text = (tiny.root / MASTER_TABLE).read_text()
    assert " -12." in text, "right ascensions beyond 180 degrees are written negative"
    assert r"\N" in text


def test_truth_has_every_object_in_every_run_and_band(tiny: SimulationResult) -> None:
    epochs = pq.read_table(tiny.root / "truth" / "epochs.parquet").to_pylist()
    seen = Counter(epoch["object_id"] for epoch in epochs)
    assert len(seen) == tiny.n_objects
    # The one object on the CCD's edge is missed by some runs and bands.
    assert sum(count < 5 * 5 for count in seen.values()) <= 1
    assert all(epoch["flux_nmgy"] >= 0 for epoch in epochs)
    record = json.loads((tiny.root / "truth" / "archive.json").read_text())
    assert record["config"]["seed"] == 7
    assert record["counts"]["n_images"] == tiny.n_images == 12
