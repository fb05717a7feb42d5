"""Power cuts: whenever a build or refresh dies, running it again ends in the very bytes of an undisturbed one."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.manifest import open_dataset
from pipeline.naming import LEDGER_FILE
from pipeline.simulate.server import ArchiveServer
from pipeline.sums import file_sha256, files_below
from pipeline.survey import CalibrationConfig
from pipeline.verify import verify_dataset
from pipeline.versions import versions
from tests.faults.conftest import build_cells_without_lock
from tests.faults.dying import finish, kill_after, start
from tests.faults.test_refresh import FIELDS, NEWEST, hide_run


@dataclass(frozen=True)
class Undisturbed:
    """What an undisturbed build leaves, how long it takes, and the archive it is from."""

    url: str
    root: Path
    files: dict[str, str]
    seconds: float

    def root_with_cache(self, folder: Path) -> Path:
        """A new root that holds the downloads, and nothing built of them."""
        shutil.copytree(self.root / "cache", folder / "cache", copy_function=_link_but_ledger)
        return folder


def _link_but_ledger(source: str, target: str) -> None:
    """Frames are never written into; the ledger is."""
    if LEDGER_FILE in Path(source).name:
        shutil.copyfile(source, target)
    else:
        Path(target).hardlink_to(source)


def sha256_of_all(survey_folder: Path) -> dict[str, str]:
    """Of every file below the folder but the records of when it was built and the locks."""
    names = (name for name in files_below(survey_folder) if not re.fullmatch(r"history/\w+\.json", name))
    return {name: file_sha256(survey_folder / name) for name in names if not name.endswith(".lock")}


@pytest.fixture(scope="module")
def undisturbed(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    root = tmp_path_factory.mktemp("undisturbed")
    with ArchiveServer(tiny_archive) as server:
        seconds = finish(start(server.url, root))
        yield Undisturbed(server.url, root, sha256_of_all(root / "datasets/tiny"), seconds)


def assert_nothing_wrong_shows(root: Path) -> None:
    """At any moment, what is visible is whole."""
    folder = root / "datasets/tiny"
    for version in versions(folder) if folder.is_dir() else []:
        assert version.problem == ""
        assert verify_dataset(version.path) == []


def kill_at_random(undisturbed: Undisturbed, tmp_path: Path, times: int, seed: int) -> None:
    moment = random.Random(seed)
    for number in range(times):
        root = undisturbed.root_with_cache(tmp_path / str(number))
        kill_after(start(undisturbed.url, root), moment.uniform(0, undisturbed.seconds))
        assert_nothing_wrong_shows(root)
        finish(start(undisturbed.url, root))
        assert sha256_of_all(root / "datasets/tiny") == undisturbed.files
        shutil.rmtree(root)


@pytest.mark.slow
def test_fifty_killed_builds_end_in_the_same_bytes(undisturbed: Undisturbed, tmp_path: Path) -> None:
    kill_at_random(undisturbed, tmp_path, times=50, seed=2)


def die_while_publishing(undisturbed: Undisturbed, tmp_path: Path, every: int) -> int:
    """Kill the publication of finished cells at each of its calls of fsync, or each so many-th; how many there were."""
    (version,) = versions(undisturbed.root / "datasets/tiny")
    count = 0
    for count in range(1, 200, every):
        root = tmp_path / str(count)
        undisturbed.root_with_cache(root)
        as_if_killed_before_publishing(version.path, root / "datasets/tiny")
        process = start(undisturbed.url, root, die_at_sync=count)
        process.join()
        assert_nothing_wrong_shows(root)
        if process.exitcode == 0:
            break
        finish(start(undisturbed.url, root))
        assert sha256_of_all(root / "datasets/tiny") == undisturbed.files
        assert open_dataset(root / "datasets/tiny").path.name == version.name
        shutil.rmtree(root)
    return count


def as_if_killed_before_publishing(version: Path, survey_folder: Path) -> None:
    """Objects and markers where a build lets them grow."""
    building = survey_folder / f".building-{open_dataset(version).info.input_hash[:12]}"
    for folder in ("objects", "cells"):
        shutil.copytree(version / folder, building / folder)


def test_publishing_may_die_at_any_step(undisturbed: Undisturbed, tmp_path: Path) -> None:
    assert die_while_publishing(undisturbed, tmp_path, every=6) > 15


@pytest.mark.slow
def test_publishing_may_die_at_every_step(undisturbed: Undisturbed, tmp_path: Path) -> None:
    assert die_while_publishing(undisturbed, tmp_path, every=1) > 15


@pytest.mark.slow
def test_a_refresh_that_keeps_images_may_die_at_any_step(tiny_archive: Path, tmp_path: Path) -> None:
    """A night comes: cells are linked, read, merged with its images and published."""
    how = {"calibration": CalibrationConfig(reference="none")}
    shutil.copytree(tiny_archive, archive := tmp_path / "archive")
    fields = (archive / FIELDS).read_bytes()
    with ArchiveServer(archive) as server:
        hide_run(archive, NEWEST)
        finish(start(server.url, tmp_path / "before", changes=how))
        (archive / FIELDS).write_bytes(fields)
        shutil.copytree(tmp_path / "before", tmp_path / "whole")
        finish(start(server.url, tmp_path / "whole", again=True, changes=how))
        expected = sha256_of_all(tmp_path / "whole" / "datasets/tiny")
        for count in range(5, 400, 9):
            shutil.copytree(tmp_path / "before", root := tmp_path / str(count))
            process = start(server.url, root, again=True, die_at_sync=count, changes=how)
            process.join()
            assert_nothing_wrong_shows(root)
            if process.exitcode == 0:
                break
            finish(start(server.url, root, again=True, changes=how))
            assert sha256_of_all(root / "datasets/tiny") == expected
            shutil.rmtree(root)
    assert count > 100


@pytest.mark.slow
def test_two_builds_at_once_do_not_spoil_each_other(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """One builds; the other is told so, or comes late enough to find everything done."""
    root = undisturbed.root_with_cache(tmp_path / "root")
    both = [start(undisturbed.url, root) for _ in range(2)]
    for process in both:
        process.join()
    assert 0 in {process.exitcode for process in both}
    assert sha256_of_all(root / "datasets/tiny") == undisturbed.files


def test_two_workers_on_one_cell_leave_what_one_leaves(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Without the lock of the build, as workers on several machines are: each cell is built once."""
    root = undisturbed.root_with_cache(tmp_path / "root")
    cut: list[str] = []
    with ThreadPoolExecutor(2) as threads:
        ways = [threads.submit(build_cells_without_lock, undisturbed.url, root, cut.append) for _ in range(2)]
        first, second = (way.result() for way in ways)
    assert [one.model_dump_json() for one in first] == [one.model_dump_json() for one in second]
    assert len(cut) == len(set(cut)) == len(first)
    finish(start(undisturbed.url, root))
    assert sha256_of_all(root / "datasets/tiny") == undisturbed.files
