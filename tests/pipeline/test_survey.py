"""Survey descriptions: what is wrong is named, `{root}` and relative paths mean what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from pipeline.errors import ConfigError
from pipeline.naming import MASTER_TABLE
from pipeline.simulate.skyserver import SQL_PATH
from pipeline.survey import SurveyConfig, load_survey

OWN = """
name = "own"
title = "My objects"
[catalog]
source = "{source}"
format = "list"
[[archives]]
name = "sas"
layout = "sas-dr8"
base_urls = ["https://data.sdss.org/"]
[[index]]
kind = "photofield"
archive = "sas"
runs = [94]
"""


def own(folder: Path, source: str = "objects.csv", more: str = "") -> Path:
    path = folder / "own.toml"
    path.write_text(OWN.replace("{source}", source) + more)
    return path


@pytest.mark.parametrize("root", ["http://127.0.0.1:8082", "http://127.0.0.1:8082/", 'http://h/a"b', "C:\\data"])
def test_the_archive_root_is_put_in_as_it_is(root):
    survey = load_survey("tiny").with_root(root)
    assert survey.archive("das").base_urls == (root.rstrip("/") + "/das/",)
    assert survey.catalog.source.startswith(root.rstrip("/") + "/sas/")
    assert survey.fingerprint() == load_survey("tiny").with_root("http://elsewhere").fingerprint()


def test_a_survey_without_a_root_says_what_to_give(tmp_path):
    with pytest.raises(ConfigError, match="--archive-root"):
        load_survey("tiny").with_root(None)
    fixed = load_survey(own(tmp_path))
    assert fixed.with_root(None) is fixed


def test_a_relative_object_list_lies_beside_the_description(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    own(tmp_path / "mine", "lists/objects.csv")
    monkeypatch.chdir(tmp_path)
    assert load_survey("mine/own.toml").catalog.source == str(tmp_path / "mine" / "lists" / "objects.csv")
    for fixed in ("/data/objects.csv", "https://host/objects.csv", "{root}/objects.csv"):
        assert load_survey(own(tmp_path, fixed)).catalog.source == fixed


def test_a_saved_survey_is_read_back(tmp_path):
    survey = load_survey(own(tmp_path))
    (tmp_path / "saved.json").write_text(survey.model_dump_json())
    assert load_survey(tmp_path / "saved.json") == survey


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "camcol = [1]",
            r"index\.0\.photofield\.camcol: unknown key; known keys: kind, archive, rerun, runs, camcols",
        ),
        ("[splits]\nfold = 3", r"splits\.fold: unknown key; known keys: folds, seed, duplicate_radius_arcsec$"),
        ("[[archives]]\nname = 'x'", r"archives\.1\.layout: is missing; archives\.1\.base_urls: is missing$"),
        ("[thumbnails]\nsize = 1", r"thumbnails\.size: .*greater than or equal to 8$"),
        ("[[index]]\nkind = 'tsfield'\narchive = 'das'\nfields = []", "names archive 'das'"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, more, message):
    with pytest.raises(ConfigError, match=message):
        load_survey(own(tmp_path, more=more))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.toml", b'name="\xff"', "not UTF-8"),
        ("s.toml", b"name=", "cannot be parsed"),
        ("s.json", b"[" * 100_000, "nested too deeply"),
        ("s.json", b"[1]", "valid dictionary"),
        ("s.json", b"1" * 5000, "cannot be parsed"),
    ],
)
def test_what_is_no_description_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_survey(tmp_path / name)


def test_a_name_that_does_not_ship_is_answered_with_those_that_do():
    with pytest.raises(ConfigError, match="demo, real-sample, sdss-legacy, sdss-sn, tiny"):
        load_survey("stripe83")
    assert isinstance(load_survey("demo"), SurveyConfig)


@pytest.mark.parametrize("name", ["demo", "tiny", "real-sample"])
def test_a_server_on_this_machine_is_not_waited_for(name):
    assert {archive.max_outage_h for archive in load_survey(name).archives} == {0}


def test_the_real_surveys_load_and_are_polite():
    """Fixed addresses, a bounded cache, a day's patience with an outage, no more connections than SDSS's own tool."""
    for name in ("sdss-sn", "sdss-legacy"):
        survey = load_survey(name).with_root(None)
        assert survey.cache.max_gb == 100
        assert all(archive.max_outage_h == 24 and archive.max_connections <= 5 for archive in survey.archives)
        assert survey.catalog.source.endswith(MASTER_TABLE)
    (index,) = load_survey("sdss-sn").index
    assert index.url.endswith(SQL_PATH)


def test_the_seasons_of_the_real_survey_hold_its_nights_and_each_candidate_has_one(real_data):
    """Nights: when Stripe 82's RR Lyrae were observed. Candidates: all 10,258, with the peaks of their fits."""
    seasons = load_survey("sdss-sn").selection.seasons
    tables = [np.loadtxt(file, ndmin=2) for file in (real_data / "lightcurves/sesar2010_rrlyrae/table1").glob("*.dat")]
    mjd = np.concatenate([table[:, 2::3].ravel() for table in tables])
    of_survey = mjd[mjd > 53600]
    held = [(of_survey > season.mjd_start + 7) & (of_survey < season.mjd_end - 7) for season in seasons]
    assert len(np.unique(np.floor(of_survey))) == 131
    assert np.all(np.sum(held, axis=0) == 1)

    head = fits.getdata(real_data / "catalog/JLA2014_SDSS_DS17_HEAD.FITS.gz")
    cid, peak = np.array([int(name) for name in head["SNID"]]), head["PEAKMJD"]
    members = [(cid >= season.first_cid) & (cid <= season.last_cid) for season in seasons]
    assert [int(member.sum()) for member in members] == [4677, 3016, 2565]
    for season, member in zip(seasons, members, strict=True):
        assert season.mjd_start - 50 < peak[member].min()
        assert peak[member].max() < season.mjd_end


def test_the_legacy_runs_are_runs_of_stripe_82_that_the_archive_has(real_data):
    """77 runs before the seasons, of SDSS-III's list of the stripe, each done in rerun 301."""
    (index,) = load_survey("sdss-legacy").index
    lines = (real_data / "metadata/Stripe82RunList.dat").read_text().splitlines()
    stripe = {int(line.split()[0]) for line in lines if line.strip() and not line.startswith("#")}
    rows = [line.split() for line in (real_data / "metadata/runList-dr10.par").read_text().splitlines()]
    done = {int(row[1]): row for row in rows if row[:1] == ["RUNDATA"] and row[2] == "301" and row[4] == "1"}
    assert len(set(index.runs)) == 77
    assert set(index.runs) <= stripe & set(done)
    assert max(index.runs) < 5566
    assert sum(int(done[run][7]) - int(done[run][6]) + 1 for run in index.runs) * 6 == 160_770
