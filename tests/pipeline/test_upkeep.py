"""What is old goes, what is needed stays, and a dry run says the same without touching anything."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from pipeline.cache import PART_LIFE_S, PARTS, Cache
from pipeline.errors import ConfigError
from pipeline.ledger import Key, Origin
from pipeline.naming import cache_dir, logs_dir, report_dir, survey_dir
from pipeline.sums import write_sums
from pipeline.upkeep import Cleared, clear_cache, clear_logs, clear_reports, clear_versions, surveys
from pipeline.versions import point_latest, versions, write_record
from tests.pipeline.small import small_dataset

KB = 1000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three versions of a dataset, the last the latest, each with its page."""
    folder = survey_dir(tmp_path, "tiny")
    for name in ("v1", "v2", "v3"):
        small_dataset(folder / name)
        write_sums(folder / name, {})
        write_record(folder, name, None, {})
        point_latest(folder, name)
        page(tmp_path, f"tiny-{name}")
    page(tmp_path, "light-tiny-v1")  # about a training run
    return tmp_path


def page(root: Path, name: str) -> None:
    for file in ("index.html", "objects/739.html"):
        path = report_dir(root, name) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("<p>")


def pages(root: Path) -> set[str]:
    return {file.name for file in report_dir(root, "x").parent.iterdir()}


def aged(file: Path, seconds: float) -> None:
    os.utime(file, (time.time() - seconds,) * 2)


def test_versions_go_and_their_pages_with_them(root: Path) -> None:
    before = pages(root)
    would = clear_versions(root, 1, protected=["tiny-v1", "other-v2"], dry_run=True)["tiny"]
    assert would.removed == ("v2",)
    assert clear_reports(root, dry_run=False) == Cleared(0, 0)
    assert clear_versions(root, 1, protected=["tiny-v1"], dry_run=False)["tiny"] == would
    assert [version.name for version in versions(survey_dir(root, "tiny"))] == ["v1", "v3"]
    assert clear_reports(root, dry_run=True) == Cleared(1, 6)
    assert pages(root) == before
    assert clear_reports(root, dry_run=False) == Cleared(1, 6)
    assert before - pages(root) == {"tiny-v2"}


def test_a_root_with_nothing_in_it_is_fine(tmp_path: Path) -> None:
    assert surveys(tmp_path) == []
    assert clear_versions(tmp_path, 3, protected=[], dry_run=False) == {}
    assert clear_cache(tmp_path, 1.0, dry_run=False) == clear_reports(tmp_path, dry_run=False) == Cleared(0, 0)
    assert list(tmp_path.iterdir()) == []


def test_log_files_go_by_the_day_they_were_last_written(tmp_path: Path) -> None:
    folder = logs_dir(tmp_path)
    folder.mkdir()
    for name, days in (("2026-01-01.jsonl", 40), ("2026-02-01.jsonl", 2), ("notes.txt", 400)):
        (folder / name).write_text("{}\n")
        aged(folder / name, days * 86400)
    assert clear_logs(tmp_path, 30, dry_run=True) == clear_logs(tmp_path, 30, dry_run=False) == Cleared(1, 3)
    assert sorted(file.name for file in folder.iterdir()) == ["2026-02-01.jsonl", "notes.txt"]


def test_downloads_go_down_to_the_bound_and_old_parts_with_them(tmp_path: Path) -> None:
    folder = cache_dir(tmp_path)
    cache = Cache(folder, grace_s=0)
    for number in range(4):
        key = Key("das", f"file-{number}")
        part = cache.part(key)
        part.path.parent.mkdir(parents=True, exist_ok=True)
        part.path.write_bytes(b"x" * KB)
        cache.keep(key, part, Origin("http://x", "", KB, "", ""))
    cache.close()
    for name, age in (("old.part", PART_LIFE_S + 60), ("young.part", 60)):
        (folder / PARTS / name).write_bytes(b"x" * 10)
        aged(folder / PARTS / name, age)
    assert clear_cache(tmp_path, 2 * KB / 1e9, dry_run=True) == Cleared(1, 10 + 2 * KB)
    assert len(list(folder.rglob("file-*"))) == 4
    with pytest.raises(ConfigError, match="name 0 or more"):
        clear_cache(tmp_path, -1, dry_run=False)
    assert clear_cache(tmp_path, None, dry_run=False) == Cleared(1, 10)
    assert [file.name for file in (folder / PARTS).glob("*.part")] == ["young.part"]
    shutil.rmtree(folder / "das")  # somebody cleared away by hand: counted as held, gone all the same
    assert clear_cache(tmp_path, 0, dry_run=False).n_bytes <= 4 * KB
