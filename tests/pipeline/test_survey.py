"""Survey descriptions: what is wrong is named, `{root}` and relative paths mean what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
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
    with pytest.raises(ConfigError, match="demo, real-sample, tiny"):
        load_survey("stripe83")
    assert isinstance(load_survey("demo"), SurveyConfig)
