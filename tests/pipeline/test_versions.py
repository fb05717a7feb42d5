"""Versions of a dataset: their order, which is the latest, and what may be cleared away and what never."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.errors import ConfigError, DatasetError
from pipeline.naming import DATASET_FILE, SUMS_FILE
from pipeline.sums import write_sums
from pipeline.versions import (
    BUILD_LOCK_FILE,
    collect,
    latest_version,
    point_latest,
    read_record,
    versions,
    write_record,
)
from tests.pipeline.small import small_dataset

NAMES = ("ccc", "aaa", "bbb")
"""In the order in which they were published."""


@pytest.fixture
def survey_folder(tmp_path: Path) -> Path:
    """Three versions; unchanged objects are hard links, as refreshes leave them."""
    folder = tmp_path / "datasets" / "tiny"
    for parent, name in zip((None, *NAMES), NAMES, strict=False):
        path = folder / name
        if parent:
            shutil.copytree(folder / parent, path, copy_function=lambda a, b: Path(b).hardlink_to(a))
            (path / DATASET_FILE).unlink()
            shutil.copyfile(folder / parent / DATASET_FILE, path / DATASET_FILE)
            (path / SUMS_FILE).unlink()
        else:
            small_dataset(path)
        write_sums(path, {})
        write_record(folder, name, parent, {"cells": 1.0})
        point_latest(folder, name)
    return folder


def names(folder: Path) -> list[str]:
    return [version.name for version in versions(folder)]


def test_versions_are_listed_in_the_order_in_which_they_came(survey_folder: Path) -> None:
    found = versions(survey_folder)
    assert [version.name for version in found] == list(NAMES)
    assert [version.record.number for version in found if version.record] == [1, 2, 3]
    assert [version.record.parent for version in found if version.record] == [None, "ccc", "aaa"]
    assert [version.latest for version in found] == [False, False, True]
    assert [version.problem for version in found] == [""] * 3


def test_a_clock_that_goes_backwards_is_noticed_and_the_order_stays(
    survey_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Numbers count, not times; the record says what the clock said."""
    file = survey_folder / "history" / "bbb.json"
    content = json.loads(file.read_text())
    content["published_at"] = str(datetime.now(UTC) + timedelta(days=400))
    file.write_text(json.dumps(content))
    shutil.copytree(survey_folder / "bbb", survey_folder / "a-new-one")
    with caplog.at_level("WARNING"):
        record = write_record(survey_folder, "a-new-one", "bbb", {})
    assert "the clock of this machine says" in caplog.text
    assert record.number == 4
    assert names(survey_folder) == [*NAMES, "a-new-one"]


def test_a_number_is_never_given_twice(survey_folder: Path) -> None:
    collect(survey_folder, keep=1)
    assert write_record(survey_folder, "ddd", "bbb", {}).number == 4


def test_old_versions_go_and_what_others_share_with_them_stays(survey_folder: Path) -> None:
    would = collect(survey_folder, keep=1, dry_run=True)
    assert names(survey_folder) == list(NAMES)
    done = collect(survey_folder, keep=1)
    assert would == done
    assert (done.removed, done.kept) == (("ccc", "aaa"), ("bbb",))
    own = [(survey_folder / "bbb" / name).stat().st_size for name in (DATASET_FILE, SUMS_FILE)]
    assert done.freed_bytes == 2 * sum(own), "objects and tables are in use still"
    assert names(survey_folder) == ["bbb"]
    assert versions(survey_folder)[0].problem == ""
    assert list(survey_folder.glob(".deleting*")) == []


def test_the_latest_the_protected_and_what_somebody_put_there_stay(survey_folder: Path) -> None:
    point_latest(survey_folder, "ccc")
    shutil.copytree(survey_folder / "aaa", survey_folder / "from-a-colleague")
    (survey_folder / "notes").mkdir()
    assert collect(survey_folder, keep=1, protected={"aaa"}).removed == ()
    assert collect(survey_folder, keep=1).removed == ("aaa",)
    assert set(names(survey_folder)) == {"ccc", "bbb", "from-a-colleague", "notes"}
    assert latest_version(survey_folder) == "ccc"
    collect(survey_folder, keep=1, damaged=True)
    assert (survey_folder / "notes").is_dir(), "it never was a version"


def test_packs_go_with_their_version(survey_folder: Path) -> None:
    for name in ("aaa-float16", "bbb-float16"):
        (survey_folder / "packs" / name).mkdir(parents=True)
    collect(survey_folder, keep=1)
    assert [path.name for path in (survey_folder / "packs").iterdir()] == ["bbb-float16"]


def test_a_half_deleted_version_is_named_and_goes_when_that_is_wanted(survey_folder: Path) -> None:
    """As an interrupted `rm -r` leaves it; the rest of an interrupted `gc` goes by itself."""
    shutil.rmtree(survey_folder / "aaa" / "objects")
    (survey_folder / "ccc" / SUMS_FILE).unlink()
    (survey_folder / ".deleting-zzz-1" / "objects").mkdir(parents=True)
    problems = {version.name: version.problem for version in versions(survey_folder)}
    assert problems["aaa"].startswith("5 files are missing, first objects/")
    assert "SHA256SUMS is missing" in problems["ccc"]
    assert "half deleted" in problems["ccc"]
    assert collect(survey_folder, keep=3).removed == ()
    assert not (survey_folder / ".deleting-zzz-1").exists()
    assert set(collect(survey_folder, keep=3, damaged=True).removed) == {"aaa", "ccc"}
    assert names(survey_folder) == ["bbb"]


def test_broken_off_builds_go_unless_they_run(survey_folder: Path) -> None:
    for name in (".building-0123", ".building-4567"):
        (survey_folder / name / "objects").mkdir(parents=True)
    with FileLock(survey_folder / BUILD_LOCK_FILE):
        assert collect(survey_folder, keep=9).builds_removed == ()
        assert collect(survey_folder, keep=9, unfinished=0).builds_removed == ()
    assert set(collect(survey_folder, keep=9, unfinished=0).builds_removed) == {".building-0123", ".building-4567"}
    assert list(survey_folder.glob(".building-*")) == []


def test_only_builds_that_were_left_long_ago_go_by_themselves(survey_folder: Path) -> None:
    for name, age_days in ((".building-0123", 40), (".building-4567", 2)):
        (survey_folder / name / "cells").mkdir(parents=True)
        for path in (survey_folder / name / "cells", survey_folder / name):
            os.utime(path, (time.time() - age_days * 86400,) * 2)
    assert collect(survey_folder, keep=9, unfinished=30).builds_removed == (".building-0123",)


def test_a_version_that_somebody_linked_from_elsewhere_goes_without_what_it_points_to(
    survey_folder: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "big" / "ccc"
    elsewhere.parent.mkdir()
    (survey_folder / "ccc").rename(elsewhere)
    (survey_folder / "ccc").symlink_to(elsewhere)
    assert "ccc" in collect(survey_folder, keep=1).removed
    assert not (survey_folder / "ccc").is_symlink()
    assert (elsewhere / "dataset.json").is_file()
    assert list(survey_folder.glob(".deleting-*")) == []


def test_packs_go_with_their_versions_also_those_that_were_not_finished(survey_folder: Path, tmp_path: Path) -> None:
    """The folder of packs may be on another disk; a pack that is being made is left alone."""
    (packs := tmp_path / "packs").mkdir()
    (survey_folder / "packs").symlink_to(packs)
    for name in ("bbb-float16", "ccc-float16", ".ccc-float32.packing", "zzz-float16", ".zzz-float32.packing"):
        (packs / name).mkdir()
    for name in (".ccc-float32.journal", ".ccc-float32.lock", ".zzz-float32.lock"):
        (packs / name).touch()
    with FileLock(packs / ".zzz-float32.lock"):
        collect(survey_folder, keep=1)
    assert sorted(path.name for path in packs.iterdir()) == [".zzz-float32.lock", ".zzz-float32.packing", "bbb-float16"]


def test_what_others_write_beside_versions_is_left_alone(survey_folder: Path) -> None:
    """A killed export's folder, a table that is being written: only our own half-written records are swept."""
    (survey_folder / ".export.x1.part").mkdir()
    for name in (".curves.parquet.x.part", ".latest.x.part", "history/.aaa.json.x.part"):
        (survey_folder / name).touch()
    collect(survey_folder, keep=9)
    assert (survey_folder / ".export.x1.part").is_dir()
    assert (survey_folder / ".curves.parquet.x.part").is_file()
    assert not (survey_folder / ".latest.x.part").exists()
    assert not (survey_folder / "history/.aaa.json.x.part").exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is damaged"),
        ("{}", "version: is missing"),
        ('{"version": "aaa", "number": 0}', "number"),
        (
            '{"version": "ccc", "number": 1, "parent": null, "published_at": "2026-01-01T00:00:00Z", "seconds": {}}',
            "is the record of another version, ccc",
        ),
    ],
)
def test_a_damaged_record_is_one_error_that_names_it(survey_folder: Path, content: str, complaint: str) -> None:
    file = survey_folder / "history" / "aaa.json"
    file.write_text(content)
    for ask in (lambda: read_record(survey_folder / "aaa"), lambda: versions(survey_folder)):
        with pytest.raises(DatasetError, match=complaint) as caught:
            ask()
        assert str(file) in str(caught.value)
        assert "move it away" in str(caught.value)


def test_what_is_no_folder_of_versions_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no dataset of that survey was built"):
        versions(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no dataset of that survey was built"):
        collect(tmp_path / "nowhere", keep=1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="at least the newest"):
        collect(tmp_path, keep=0)


def test_versions_of_newer_software_are_not_taken_for_damaged(survey_folder: Path) -> None:
    file = survey_folder / "ccc" / DATASET_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": 9, "unheard_of": 1}))
    assert "has schema version 9" in versions(survey_folder)[0].problem
    assert collect(survey_folder, keep=1, damaged=True).removed == ("aaa",)
    assert (survey_folder / "ccc").is_dir()
