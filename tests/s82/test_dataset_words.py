"""`s82 dataset`: what people and scripts see of versions, and which of them stay."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from pipeline.manifest import MANIFEST_SCHEMA, content_hash, open_dataset, write_info, write_table
from pipeline.naming import DATASET_FILE, MANIFEST_FILE, SUMS_FILE
from pipeline.packing import pack_dataset
from pipeline.sums import write_sums
from pipeline.versions import point_latest, write_record
from tests.pipeline.small import small_dataset, small_info
from tests.s82.test_words import run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two versions of one survey: in the second an object's images are fainter, and another object has a new label."""
    folder = tmp_path / "datasets" / "tiny"
    small_dataset(folder / "first")
    small_dataset(folder / "second", _other_label_and_fluxes)
    for parent, name in ((None, "first"), ("first", "second")):
        file = folder / name / DATASET_FILE
        file.write_text(file.read_text().replace("tiny-0123456789ab", f"tiny-{name}"))
        write_sums(folder / name, {})
        write_record(folder, name, parent, {"cells": 61.5})
        point_latest(folder, name)
    return tmp_path


def _other_label_and_fluxes(sequence):  # type: ignore[no-untyped-def]
    if sequence.object_id == "7":
        return dataclasses.replace(sequence, image=sequence.image / 2)
    if sequence.object_id == "80":
        return dataclasses.replace(sequence, confirmation="photometric")
    return sequence


def test_list_shows_versions_in_order(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("dataset", "list", "tiny", "--root", str(root), capsys=capsys)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert lines[0] == ["version", "number", "published", "objects", "images", "is"]
    assert [(line[0], line[1], line[-1]) for line in lines[1:]] == [("first", "1", "15"), ("second", "2", "latest")]
    code, out, _ = run("dataset", "list", "tiny", "--root", str(root), "--json", capsys=capsys)
    assert [row["version"] for row in json.loads(out)["versions"]] == ["first", "second"]


def test_show_tells_where_a_version_comes_from(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("dataset", "show", str(root / "datasets/tiny"), "--json", capsys=capsys)
    shown = json.loads(out)
    assert code == 0
    assert (shown["dataset_id"], shown["parent"], shown["seconds"]) == ("tiny-second", "first", {"cells": 61.5})


def test_diff_says_which_objects_changed_and_why(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    versions = [str(root / "datasets/tiny" / name) for name in ("first", "second")]
    code, out, _ = run("dataset", "diff", *versions, capsys=capsys)
    assert code == 0
    assert out.startswith("tiny-first → tiny-second\n")
    assert "cut differently" in out
    code, out, _ = run("dataset", "diff", *versions, "--json", capsys=capsys)
    changes = json.loads(out)
    assert changes["counts"] == {"added": 0, "changed": 2, "removed": 0, "unchanged": 3, "moved_fold": 0}
    assert {one["object_id"]: one["why"] for one in changes["objects"]} == {"7": ["cut differently"], "80": ["label"]}


def test_diff_finds_versions_by_name_and_counts_images_of_objects_that_came_and_went(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = root / "datasets/tiny/fewer"
    small_dataset(fewer)
    rows = [row for row in open_dataset(fewer).table(MANIFEST_FILE).to_pylist() if row["object_id"] != "679"]
    write_table(fewer / MANIFEST_FILE, rows, MANIFEST_SCHEMA)
    hashed = content_hash((row["object_id"], row["sha256"]) for row in rows)
    write_info(fewer, small_info(hashed))
    at = ("--root", str(root))
    for old, new, line in (
        ("fewer", "tiny-first", ["679", "added", "5", "0", "0"]),
        ("first", "fewer", ["679", "removed", "0", "5", "0"]),
    ):
        code, out, _ = run("dataset", "diff", old, new, *at, capsys=capsys)
        assert (code, out.splitlines()[-1].split()[:5]) == (0, line)
    (root / "datasets/other").mkdir()
    (root / "datasets/other/first").symlink_to(root / "datasets/tiny/first")
    for name, said in (("nothing", "nothing is not a path, nor a version below"), ("first", "2 versions below")):
        code, _, err = run("dataset", "diff", name, "fewer", *at, capsys=capsys)
        assert (code, said in err, "give its path" in err) == (1, True, True)


@pytest.mark.parametrize("word", ["list", "gc"])
def test_a_survey_is_named_and_not_pointed_at(root: Path, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--keep", "1") if word == "gc" else ()
    code, _, err = run("dataset", word, "../..", "--root", str(root), *options, capsys=capsys)
    assert (code, "'../..' is not the name of a survey" in err) == (2, True)


def test_verify_ends_with_1_and_a_table_if_anything_is_wrong(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = root / "datasets/tiny/second"
    for path in (version, version / "objects/07/7.h5", version / "manifest.parquet"):
        code, out, _ = run("dataset", "verify", str(path), capsys=capsys)
        assert code == 0
        assert "what was written" in out
    content = bytearray((version / "objects/07/7.h5").read_bytes())
    content[-1] ^= 1
    (version / "objects/07/7.h5").write_bytes(content)
    code, out, _ = run("dataset", "verify", str(version), capsys=capsys)
    assert code == 1
    said, header, line = out.splitlines()
    assert said == f"{version} (tiny-second): not what was written"
    assert header.split("  ")[0] == "file"
    assert line.startswith(
        "objects/07/7.h5  does not have the sha256 of manifest.parquet  copy it from where it is whole"
    )
    code, out, _ = run("dataset", "verify", str(version), "--json", capsys=capsys)
    assert (code, [problem["file"] for problem in json.loads(out)["problems"]]) == (1, ["objects/07/7.h5"])


def test_verify_names_the_version_that_it_read_and_reads_all_if_told(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = root / "datasets/tiny"
    for path in (folder, folder / "latest"):
        code, out, _ = run("dataset", "verify", str(path), capsys=capsys)
        assert (code, out) == (0, f"{folder / 'second'} (tiny-second): what was written\n")
    (folder / "first" / SUMS_FILE).unlink()
    (folder / "first" / DATASET_FILE).write_text("{")
    code, out, _ = run("dataset", "verify", str(folder), "--all", "--json", capsys=capsys)
    assert (code, [Path(name.split()[0]).name for name in json.loads(out)["read"]]) == (1, ["first", "second"])
    (problem,) = json.loads(out)["problems"]
    assert (problem["file"], "cannot be opened" in problem["what"]) == ("first", True)
    code, _, err = run("dataset", "verify", str(root), "--all", capsys=capsys)
    assert (code, "holds no version of a dataset" in err) == (1, True)


def test_verify_of_a_pack_leads_to_verify_pack(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack = pack_dataset(root / "datasets/tiny").path
    for path in (pack, pack / "image.npy"):
        code, _, err = run("dataset", "verify", str(path), capsys=capsys)
        assert (code, f"`s82 dataset verify-pack {pack}` checks it" in err) == (1, True)


def test_gc_keeps_what_a_run_was_trained_on(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder = root / "runs" / "mine"
    run_folder.mkdir(parents=True)
    (run_folder / "config.json").write_text('{"dataset_id": "tiny-first"}')
    gc = ("dataset", "gc", "tiny", "--root", str(root), "--keep", "1", "--json")
    code, out, _ = run(*gc, capsys=capsys)
    assert (code, json.loads(out)["removed"]) == (0, [])
    (run_folder / "config.json").write_text("{")
    code, _, err = run(*gc, capsys=capsys)
    assert code == 1
    assert "does not say which dataset its run was trained on" in err
    (run_folder / "config.json").unlink()
    code, out, _ = run(*gc, "--dry-run", capsys=capsys)
    assert (json.loads(out)["removed"], (root / "datasets/tiny/first" / SUMS_FILE).exists()) == (["first"], True)
    code, out, _ = run(*gc, capsys=capsys)
    assert (code, (root / "datasets/tiny/first").exists()) == (0, False)
