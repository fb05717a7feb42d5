"""Croissant metadata: complete, and true to the tables."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.columns import MEANINGS
from pipeline.croissant import croissant
from pipeline.manifest import FRAMES_SCHEMA, MANIFEST_SCHEMA, SKIPS_SCHEMA
from pipeline.naming import FRAMES_FILE, MANIFEST_FILE, SKIPS_FILE
from pipeline.sequences import COLUMNS
from tests.pipeline.small import small_info

RECORD_SETS = {"objects": MANIFEST_FILE, "frames": FRAMES_FILE, "skips": SKIPS_FILE}
SCHEMAS = {MANIFEST_FILE: MANIFEST_SCHEMA, FRAMES_FILE: FRAMES_SCHEMA, SKIPS_FILE: SKIPS_SCHEMA}
FILES = {
    name: (f"{number:064x}", 100 + number)
    for number, name in enumerate(["README.md", "dataset.json", *SCHEMAS, "objects/07/7.h5"])
}


@pytest.fixture
def content() -> dict[str, Any]:
    return json.loads(croissant(small_info(), FILES))


@pytest.mark.parametrize("file", SCHEMAS)
def test_every_column_has_its_meaning(file: str) -> None:
    assert set(SCHEMAS[file].names) <= set(MEANINGS[file])
    assert all(meaning.description for meaning in MEANINGS[file].values())


def test_every_column_of_every_table_is_a_typed_described_field(content: dict[str, Any]) -> None:
    by_file = {RECORD_SETS[record_set["name"]]: record_set for record_set in content["recordSet"]}
    assert set(by_file) == set(SCHEMAS)
    kinds = {"string": "sc:Text", "double": "sc:Float", "float": "sc:Float"}
    for file, schema in SCHEMAS.items():
        fields = by_file[file]["field"]
        assert [field["source"]["extract"]["column"] for field in fields] == schema.names
        assert {field["source"]["fileObject"]["@id"] for field in fields} == {file}
        assert [field["dataType"] for field in fields] == [kinds.get(str(kind), "sc:Integer") for kind in schema.types]
        assert all(field["description"] for field in fields)


def test_files_have_size_and_checksum_and_objects_are_a_set(content: dict[str, Any]) -> None:
    *objects, object_files = content["distribution"]
    assert {file["contentUrl"]: (file["sha256"], file["contentSize"]) for file in objects} == {
        name: (sha256, f"{n_bytes} B") for name, (sha256, n_bytes) in FILES.items() if "/" not in name
    }
    assert object_files["includes"] == "objects/*/*.h5"
    assert all(name in object_files["description"] for name in COLUMNS)


def test_ids_are_unique_and_all_that_are_named_exist(content: dict[str, Any]) -> None:
    nodes = [*content["distribution"], *content["recordSet"]]
    nodes += [field for record_set in content["recordSet"] for field in record_set["field"]]
    ids = [node["@id"] for node in nodes]
    assert len(ids) == len(set(ids))
    named = {key["@id"] for record_set in content["recordSet"] for key in record_set.get("key", [])}
    assert named == {"objects/object_id", "frames/archive", "frames/path"}
    assert named <= set(ids)


def test_a_date_is_there_only_if_it_is_given(content: dict[str, Any]) -> None:
    assert "datePublished" not in content
    dated = json.loads(croissant(small_info(), FILES, date_published="2026-11-24"))
    assert dated.pop("datePublished") == "2026-11-24"
    assert dated == content


def test_a_table_that_is_not_there_is_not_described() -> None:
    content = json.loads(croissant(small_info(), {MANIFEST_FILE: FILES[MANIFEST_FILE]}))
    assert [record_set["name"] for record_set in content["recordSet"]] == ["objects"]


def test_simulated_data_are_not_sold_as_the_skys(content: dict[str, Any]) -> None:
    info = small_info()
    simulated = info.model_copy(update={"survey": info.survey | {"simulation": {"seed": 1}}})
    made_up = json.loads(croissant(simulated, FILES))
    assert "Simulated images" in made_up["description"]
    assert "Simulated" not in content["description"]
    assert made_up["license"] != content["license"]
    assert "isBasedOn" not in made_up
    assert "simulated" in made_up["citeAs"]
    assert not any(credit in json.dumps(made_up) for credit in ("sdss.org", "Sloan", "Sako"))


def test_a_dataset_is_cited_by_its_id_and_sdss_is_its_source_not_its_creator(content: dict[str, Any]) -> None:
    assert "tiny-0123456789ab" in content["citeAs"]
    assert "Sako2018" in content["citeAs"]
    assert "Sloan" not in json.dumps([content["creator"], content["url"]])
    assert content["isBasedOn"]["creator"]["name"] == "Sloan Digital Sky Survey"
