"""A dataset that is refreshed for years: what is new or changed enters, the rest stays the very same files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from pipeline.archive import Archive
from pipeline.build import prepare
from pipeline.cells import CellProgress, build_cell
from pipeline.differences import Changes, compare, read_changes
from pipeline.errors import DatasetError, NotInArchive
from pipeline.manifest import Dataset, open_dataset
from pipeline.naming import cache_dir
from pipeline.publish import publish
from pipeline.simulate.server import ArchiveServer, Request
from pipeline.starcatalog import write_catalogue
from pipeline.survey import CalibrationConfig, SplitConfig
from pipeline.verify import verify_dataset
from pipeline.versions import versions
from tests.faults.conftest import IMPATIENT, build, refresh, survey_at

MASTER = "sas/dr10/boss/papers/supernova/sdsssn_master.dat2"
FIELDS = "stripe82/Field.csv"
NEWEST = "5713"
MASK = "das/imaging/5582/40/objcs/4/fpM-005582-r4-0153.fit"
TABLE = "das/imaging/5582/40/calibChunks/4/tsField-005582-4-40-0153.fit"
FRAME = "das/imaging/5582/40/corr/4/fpC-005582-r4-0153.fit.gz"
OTHER_FRAME = "das/imaging/5582/40/corr/4/fpC-005582-g4-0153.fit.gz"


class Cells:
    """Which cells were cut, not taken over."""

    def __init__(self) -> None:
        self.cut: set[str] = set()

    def __call__(self, progress: CellProgress) -> None:
        if progress.frames_done < progress.frames_total:
            self.cut.add(progress.cell_id)


@dataclass(frozen=True)
class Site:
    """An archive that is served, and a root in which its first version is built; both are this test's own to change."""

    archive: Path
    root: Path
    server: ArchiveServer
    asked_before: int = 0

    @property
    def requests(self) -> list[Request]:
        """What was asked of the server in this test."""
        return list(self.server.requests)[self.asked_before :]

    @property
    def latest(self) -> Dataset:
        return open_dataset(self.root / "datasets/tiny")

    def refresh(self, cells: Cells | None = None, **options: Any) -> Dataset:
        return refresh(self.server.url, self.root, cells, **options)


@pytest.fixture(scope="module")
def first_site(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Built once: its server stays, so that what is in the cache is known to come from there."""
    folder = tmp_path_factory.mktemp("refresh")
    archive, root = folder / "archive", folder / "root"
    shutil.copytree(tiny_archive, archive)
    with ArchiveServer(archive) as server:
        build(server.url, root, cell_width_deg=0.06)
        yield Site(archive, root, server)


@pytest.fixture
def site(first_site: Site, tmp_path: Path) -> Iterator[Site]:
    """A copy of the root; what a test changes in the archive is put back after it."""
    shutil.copytree(first_site.root, tmp_path / "root")
    changeable = {
        first_site.archive / name: (first_site.archive / name).read_bytes()
        for name in (FIELDS, FRAME, OTHER_FRAME, MASTER)
    }
    yield Site(first_site.archive, tmp_path / "root", first_site.server, len(first_site.server.requests))
    for file, content in changeable.items():
        if file.read_bytes() != content:
            file.write_bytes(content)


def hide_run(archive: Path, run: str) -> None:
    """Take a run out of the index: it was not observed yet."""
    rows = list(csv.reader((archive / FIELDS).read_text().splitlines()))
    column = rows[0].index("run")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([rows[0], *(row for row in rows[1:] if row[column] != run)])
    (archive / FIELDS).write_text(text.getvalue())


def rot(file: Path) -> bytes:
    """Flip one bit of a file."""
    rotten = bytearray(file.read_bytes())
    rotten[-9] ^= 4
    file.write_bytes(rotten)
    return bytes(rotten)


def release_again(file: Path) -> None:
    """The same frame with other pixels, as a reprocessing leaves it."""
    content = bytearray(gzip.decompress(file.read_bytes()))
    data = np.frombuffer(content, ">u2", offset=len(content) // 2880 // 2 * 2880)[: 2048 * 100]
    data += 3
    file.write_bytes(gzip.compress(bytes(content), mtime=0))


def asked_frames(site: Site) -> list[str]:
    return [request.path for request in site.requests if "fpC-" in request.path or "frame-" in request.path]


def version_names(dataset: Dataset) -> list[str]:
    return [version.name for version in versions(dataset.path.parent)]


def assert_shared(old: Dataset, new: Dataset, changes: Changes) -> None:
    """Objects that did not change are the same files on the disk, not only equal ones."""
    files = {row.object_id: row for row in new.objects}
    differ = {one.object_id for one in changes.objects}
    same = [row for row in old.objects if row.object_id not in differ]
    assert len(same) == changes.counts["unchanged"] > 0
    for row in same:
        assert (old.path / row.file).samefile(new.path / files[row.object_id].file)


def test_where_nothing_changed_there_is_no_new_version_and_no_frame_is_asked_for(site: Site) -> None:
    first = site.latest
    assert site.refresh().path == first.path
    assert build(site.server.url, site.root, cell_width_deg=0.06).path == first.path
    assert version_names(first) == [first.path.name]
    assert asked_frames(site) == []


@pytest.mark.slow
def test_a_run_goes_and_comes_and_the_result_is_that_of_a_build_from_nothing(site: Site) -> None:
    """The same version, by its name and by the hash of its objects; folds come back, too."""
    first, fields, cells = site.latest, (site.archive / FIELDS).read_bytes(), Cells()
    hide_run(site.archive, NEWEST)
    with pytest.raises(DatasetError, match=r"28 of the 140 images of tiny-\w+ would be gone; is the index whole"):
        site.refresh(cells)
    second = site.refresh(max_removed=0.5)
    changes = read_changes(second)
    assert (changes.old, changes.new) == (first.info.dataset_id, second.info.dataset_id)
    assert changes == compare(first, second)
    assert changes.why["images gone"] == changes.counts["changed"] > 0
    assert {name.split("/")[0] for one in changes.objects for name in one.images_removed} == {NEWEST}
    changed = {one.object_id for one in changes.objects}
    manifest = second.table("manifest.parquet").to_pylist()
    assert cells.cut >= {row["cell"] for row in manifest if row["object_id"] in changed}
    assert verify_dataset(second.path) == []
    (site.archive / FIELDS).write_bytes(fields)
    third = site.refresh()
    assert third.path == first.path
    shutil.rmtree(first.path)
    again = site.refresh()
    assert (again.path, again.info.content_hash) == (first.path, first.info.content_hash)
    assert {name for one in read_changes(again).objects for name in one.images_added} >= {"5713/41/4/187/r"}
    assert verify_dataset(again.path) == []


def test_a_frame_that_was_released_again_is_noticed_and_only_its_images_change(site: Site) -> None:
    """Also where it is not in the cache any more; what is still the same is not sent again."""
    first = site.latest
    rot(first.path / first.objects[0].file)  # and the old file of an object that changes is damaged
    release_again(site.archive / FRAME)
    assert site.refresh().path == first.path, "nobody asked the archive for its files again"
    for file in (site.root / "cache").rglob("*-*.fit*"):
        file.unlink()
    asked = len(site.requests)
    second = site.refresh(recheck=True)
    first_asked = {request.path: request.status for request in reversed(site.requests[asked:])}
    assert first_asked[f"/{FRAME}"] == 200
    assert list(first_asked.values()).count(304) > 20
    changes = read_changes(second)
    assert changes.why["frames changed upstream"] == changes.counts["changed"] - 1 > 0
    assert changes.counts["added"] == changes.counts["removed"] == 0
    readable = [one for one in changes.objects if one.why != ("old file is damaged",)]
    assert len(readable) == len(changes.objects) - 1
    assert all("5582/40/4/153/r" in one.images_changed for one in readable)
    assert all(not one.images_added and not one.images_removed for one in changes.objects)
    assert verify_dataset(second.path) == []
    assert site.refresh(recheck=True).path == second.path


@pytest.mark.slow
def test_files_that_were_missing_or_spoilt_enter_when_the_archive_has_them(site: Site) -> None:
    first = site.latest
    frame, other = (site.archive / FRAME).read_bytes(), (site.archive / OTHER_FRAME).read_bytes()
    (site.archive / FRAME).unlink()
    (site.archive / OTHER_FRAME).write_bytes(other[:-1000])
    for name in (FRAME, OTHER_FRAME):
        (site.root / "cache" / name).unlink()
    without = build(site.server.url, site.root, cell_width_deg=0.05)
    assert {"not-in-archive", "bad-payload"} <= set(without.table("skips.parquet")["reason"].to_pylist())
    (site.archive / FRAME).write_bytes(frame)
    (site.archive / OTHER_FRAME).write_bytes(other)
    assert build(site.server.url, site.root, cell_width_deg=0.05).path == without.path, "it was not asked for again"
    second = site.refresh(cell_width_deg=0.05)
    added = {name for one in read_changes(second).objects for name in one.images_added}
    assert added == {"5582/40/4/153/r", "5582/40/4/153/g"}
    assert not {"not-in-archive", "bad-payload"} & set(second.table("skips.parquet")["reason"].to_pylist())
    assert {row.n_images for row in second.objects} == {row.n_images for row in first.objects}


def test_labels_change_and_objects_come_and_go(site: Site) -> None:
    """The list of objects changes as lists do; every change is told with its reason."""
    master, first = site.archive / MASTER, site.latest
    lines = master.read_text().splitlines(keepends=True)
    known = {row.object_id: row for row in first.objects}
    table = [line for line in lines if line.split() and line.split()[0] in known]
    relabelled = next(line for line in table if known[line.split()[0]].class_name == "AGN")
    removed = next(line for line in table if line is not relabelled)
    assert relabelled.count("AGN") == 1
    text = "".join(line for line in lines if line is not removed).replace(relabelled, relabelled.replace("AGN", "SNIa"))
    master.write_text(text)
    with pytest.raises(DatasetError, match=r"1 of the 14 objects of tiny-\w+ would be gone.*--max-removed"):
        site.refresh()
    assert version_names(first) == [first.path.name]
    second = site.refresh(max_removed=0.1)
    changes = {one.object_id: one for one in read_changes(second).objects}
    relabelled_id, removed_id = relabelled.split()[0], removed.split()[0]
    assert changes[relabelled_id].why[0] == "label"
    assert (changes[removed_id].kind, changes[removed_id].why) == ("removed", ("not in the object list any more",))
    assert_shared(first, second, read_changes(second))
    master.write_text("".join(lines))
    third = site.refresh()
    assert third.path == first.path, "the same content is the same version"
    assert site.latest.path == first.path
    assert compare(second, third).counts["added"] == 1
    master.write_text(text)
    with pytest.raises(DatasetError, match=r"1 of the 14 objects of tiny-\w+ would be gone.*--max-removed"):
        site.refresh()  # though a version without it is there already
    assert site.latest.path == first.path


def test_a_list_that_is_gone_is_an_error_a_server_that_is_out_is_not(site: Site) -> None:
    """A page of apologies in its place counts as the latter; the copy of the last run serves on."""
    first, master = site.latest, site.archive / MASTER
    master.write_text("<html>down for maintenance</html>")
    assert site.refresh().path == first.path
    master.rename(away := master.with_suffix(".away"))
    try:
        with pytest.raises(
            NotInArchive, match=r"sdsssn_master.*404.*name one that is there: .* copy of an earlier run"
        ):
            site.refresh()
    finally:
        away.rename(master)


def test_losses_do_not_hide_behind_gains(site: Site) -> None:
    """Seven objects lose a night while others gain one: as many images as before."""
    fields = (site.archive / FIELDS).read_bytes()
    hide_run(site.archive, NEWEST)
    site.refresh(max_removed=0.5)
    (site.archive / FIELDS).write_bytes(fields)
    hide_run(site.archive, "5582")
    with pytest.raises(DatasetError, match=r"(\d+) of the 112 images of tiny-\w+ would be gone"):
        site.refresh(max_removed=0.1)


def test_files_that_are_lost_before_publication_are_made_anew_not_left_out(site: Site, tmp_path: Path) -> None:
    survey = survey_at(site.server.url, 0.06, None)
    with Archive(survey.archives, cache_dir(tmp_path), IMPATIENT) as archive, ThreadPoolExecutor(2) as executor:
        plan = prepare(survey, tmp_path, archive)
        results = [build_cell(cell, survey, archive, executor, plan.building, workers=2) for cell in plan.plan.cells]
        lost = results[0].objects[0]["file"]
        (plan.building / lost).unlink()
        with pytest.raises(DatasetError, match=f"lacks 1 files that its cells have written, first {lost}"):
            publish(plan, results, {})
    assert verify_dataset(build(site.server.url, tmp_path, cell_width_deg=0.06).path) == []


def test_an_old_version_that_rotted_stops_nothing(site: Site) -> None:
    """Folds are taken from the versions that can be read."""
    first = site.latest
    second = site.refresh(changes={"splits": SplitConfig(folds=3, seed=5)})
    rot(first.path / "manifest.parquet")
    third = site.refresh(changes={"splits": SplitConfig(folds=3, seed=6)})
    assert third.path != second.path
    assert verify_dataset(third.path) == []


def test_settings_that_decide_nothing_cut_nothing(site: Site) -> None:
    archives = tuple(
        one.model_copy(update={"max_file_mb": 128.0, "attempts": 3} | ({"sas_root": "x"} if one.name == "das" else {}))
        for one in survey_at(site.server.url, 0.06, None).archives
    )
    assert site.refresh(changes={"archives": archives}).path == site.latest.path
    assert len(version_names(site.latest)) == 1


def test_another_radius_of_duplicates_moves_no_fold(site: Site) -> None:
    first = site.latest
    wider = {"splits": SplitConfig(folds=2, duplicate_radius_arcsec=2.5)}
    site.refresh(changes=wider)
    second = site.refresh(changes=wider | {"calibration": CalibrationConfig(reference="none")})
    assert second.path != first.path
    assert compare(first, second).counts["moved_fold"] == 0


def test_new_labels_are_written_without_a_frame_as_cutting_would_write_them(site: Site, tmp_path: Path) -> None:
    """Of all objects of a class at once, with the cache empty: lists are revised as a whole."""
    first, cells = site.latest, Cells()
    master = site.archive / MASTER
    revised = master.read_text().replace(" AGN ", " zSNIa ")
    assert revised != master.read_text()
    master.write_text(revised)
    for file in (site.root / "cache").rglob("*-*.fit*"):
        file.unlink()
    second = site.refresh(cells)
    assert (cells.cut, asked_frames(site)) == (set(), [])
    changes = read_changes(second)
    assert changes.why == {"label": changes.counts["changed"]}
    assert 0 < changes.counts["changed"] < len(first.objects)
    assert_shared(first, second, changes)
    assert verify_dataset(first.path) == verify_dataset(second.path) == []
    from_nothing = build(site.server.url, tmp_path / "other", cell_width_deg=0.06)
    assert from_nothing.info.content_hash == second.info.content_hash
    assert_same_records(second, from_nothing)


def test_a_damaged_file_is_not_labelled_anew_but_its_cell_is_cut(site: Site) -> None:
    first, cells = site.latest, Cells()
    master = site.archive / MASTER
    master.write_text(master.read_text().replace(" AGN ", " zSNIa "))
    victim = next(row for row in first.objects if row.class_name == "AGN")
    rot(first.path / victim.file)
    second = site.refresh(cells)
    assert cells.cut == {
        row["cell"] for row in first.table("manifest.parquet").to_pylist() if row["object_id"] == victim.object_id
    }
    assert verify_dataset(second.path) == []


@pytest.mark.parametrize("reference", ["none", "stars"])
def test_a_new_night_is_all_that_is_fetched_and_the_result_is_that_of_cutting_everything(
    site: Site, tmp_path: Path, reference: str
) -> None:
    """Where zero points do not rest on the cell's other frames: not checked, or held against a catalogue."""
    if reference == "stars":
        reference = str(tmp_path / "stars.csv")
        assert write_catalogue(site.latest, tmp_path / "stars.csv") > 5
    how, fields = {"calibration": CalibrationConfig(reference=reference)}, (site.archive / FIELDS).read_bytes()
    hide_run(site.archive, NEWEST)
    site.refresh(changes=how, max_removed=0.5)
    (site.archive / FIELDS).write_bytes(fields)
    asked = len(asked_frames(site))
    for file in (site.root / "cache").rglob("*-*.fit*"):
        file.unlink()
    second = site.refresh(changes=how)
    frames = asked_frames(site)[asked:]
    assert len(frames) == 2  # one per band
    assert all(f"/{NEWEST}/" in path for path in frames)
    changes = read_changes(second)
    assert changes.why == {"new images": changes.counts["changed"]}
    assert sum(len(one.images_added) for one in changes.objects) == 28
    assert not any(one.images_changed for one in changes.objects)
    assert verify_dataset(second.path) == []
    from_nothing = build(site.server.url, tmp_path / "other", cell_width_deg=0.06, changes=how)
    assert from_nothing.path.name == second.path.name
    assert_same_records(second, from_nothing)


@pytest.mark.parametrize("what", ["frame", "mask"])
def test_what_was_made_of_a_vanished_file_stays_when_its_cell_is_built_again(site: Site, what: str) -> None:
    """Though its standards are made anew; and once the file is back, so is what a build from nothing would give."""
    first, master = site.latest, site.archive / MASTER
    lost = site.archive / (FRAME if what == "frame" else MASK)
    content, lines = lost.read_bytes(), master.read_text().splitlines(keepends=True)
    for file in (site.root / "cache").rglob(f"{lost.name.split('.')[0]}*"):
        file.unlink()
    lost.unlink()
    rows = first.table("manifest.parquet").to_pylist()
    gone = next(row for row in rows if row["object_id"] == first.objects[0].object_id)
    master.write_text("".join(line for line in lines if line.split()[:1] != [gone["object_id"]]))
    try:
        second = site.refresh(max_removed=0.1)
        changes = read_changes(second)
        assert not any(one.images_removed or one.images_added for one in changes.objects if one.kind == "changed")
        assert "masks" not in changes.why
        skips = [skip["frame"] for skip in second.table("skips.parquet").to_pylist() if skip["reason"] == "vanished"]
        assert skips == ["5582/40/4/153/r"]
        assert verify_dataset(second.path) == []
        assert site.refresh(cells := Cells(), max_removed=0.1).path == second.path
        assert cells.cut == set()
    finally:
        lost.write_bytes(content)
    again = site.refresh()
    assert "vanished" not in again.table("skips.parquet")["reason"].to_pylist()
    master.write_text("".join(lines))
    assert site.refresh().path == first.path


@pytest.mark.parametrize("what", ["frame", "mask"])
def test_a_file_that_vanished_beside_one_that_changed_is_no_work_for_ever(site: Site, what: str) -> None:
    """A frame that is there is calibrated as it is now, without a mask; one that is gone stays as it was."""
    how = {"calibration": CalibrationConfig(reference="none")}
    first = site.refresh(changes=how)
    lost, table = site.archive / (FRAME if what == "frame" else MASK), site.archive / TABLE
    kept = {file: file.read_bytes() for file in (lost, table)}
    with fits.open(table, mode="update", output_verify="silentfix") as hdus:
        hdus[1].data["aa"] -= 0.5
    lost.unlink()
    for file in (site.root / "cache").rglob("*005582*"):
        file.unlink()
    try:
        second = site.refresh(changes=how, recheck=True)
        rows = [
            next(row for row in one.table("frames.parquet").to_pylist() if row["path"] == FRAME.removeprefix("das/"))
            for one in (first, second)
        ]
        assert (rows[0]["calibration_sha256"] == rows[1]["calibration_sha256"]) == (what == "frame")
        reasons = second.table("skips.parquet")["reason"].to_pylist()
        assert ("vanished" in reasons, "no-mask" in reasons) == (what == "frame", what == "mask")
        assert site.refresh(cells := Cells(), changes=how).path == second.path
        assert cells.cut == set()
    finally:
        for file, content in kept.items():
            file.write_bytes(content)


def assert_same_records(one: Dataset, other: Dataset) -> None:
    """Of all cells, to the byte: objects, frames, skips, moments."""
    records = sorted((one.path / "cells").iterdir())
    assert [file.name for file in records] == [file.name for file in sorted((other.path / "cells").iterdir())]
    for file in records:
        assert file.read_bytes() == (other.path / "cells" / file.name).read_bytes()


def test_an_object_that_goes_or_comes_leaves_the_others_uncut(site: Site, tmp_path: Path) -> None:
    """Of a damaged file in the version before nothing is taken: what it needs is cut again."""
    how, master = {"calibration": CalibrationConfig(reference="none")}, site.archive / MASTER
    first = site.refresh(changes=how)
    lines = master.read_text().splitlines(keepends=True)
    rows = first.table("manifest.parquet").to_pylist()
    cell = next(cell for cell, n in Counter(row["cell"] for row in rows).items() if n > 2)
    gone, damaged, *_ = [row for row in rows if row["cell"] == cell]
    master.write_text("".join(line for line in lines if line.split()[:1] != [gone["object_id"]]))
    for file in (site.root / "cache").rglob("*-*.fit*"):
        file.unlink()
    asked = len(asked_frames(site))
    second = site.refresh(changes=how, max_removed=0.1)
    assert len(asked_frames(site)) == asked
    assert_shared(first, second, read_changes(second))
    before = tmp_path / "before"
    first.path.rename(before)
    rot(second.path / damaged["file"])
    master.write_text("".join(lines))
    third = site.refresh(changes=how)
    assert len(asked_frames(site)) > asked
    assert third.path.name == first.path.name
    assert verify_dataset(third.path) == []
    assert_same_records(third, open_dataset(before))


def test_another_rule_for_folds_cuts_nothing_anew(site: Site) -> None:
    first, cells = site.latest, Cells()
    second = site.refresh(cells, changes={"splits": SplitConfig(folds=3, seed=5)})
    assert (cells.cut, asked_frames(site)) == (set(), [])
    changes = read_changes(second)
    assert changes.counts["unchanged"] == 14
    assert changes.counts["moved_fold"] > 0
    assert_shared(first, second, changes)


def test_across_devices_files_are_copied(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    first = site.latest
    monkeypatch.setattr(os, "link", no_links)
    second = site.refresh(changes={"splits": SplitConfig(folds=3, seed=5)})
    assert verify_dataset(second.path) == []
    assert {row.sha256 for row in first.objects} == {row.sha256 for row in second.objects}


@pytest.mark.slow
def test_what_rotted_in_the_version_before_is_not_taken_over(site: Site) -> None:
    """An object's file, or the record of a cell: the cells are cut again; the damaged version is left as it is."""
    first = site.latest
    victim = first.path / first.objects[3].file
    rotten = rot(victim)
    cells = first.table("manifest.parquet")["cell"].to_pylist()
    marker = first.path / "cells" / f"{next(cell for cell in cells if cell != cells[3])}.json"
    marker.write_text(marker.read_text().replace('"mjd_first":5', '"mjd_first":4'))
    second = site.refresh(changes={"splits": SplitConfig(folds=3, seed=5)})
    assert verify_dataset(second.path) == []
    assert victim.read_bytes() == rotten
    assert {problem.file for problem in verify_dataset(first.path)} == {first.objects[3].file, f"cells/{marker.name}"}
    assert min(second.table("manifest.parquet")["mjd_first"].to_pylist()) > 50_000


def test_a_version_that_was_half_deleted_stops_a_refresh_with_what_to_do(site: Site) -> None:
    first = site.latest
    shutil.rmtree(first.path / "objects")
    with pytest.raises(DatasetError, match=r"is published but damaged: 14 files are missing.*move it away"):
        site.refresh()
    (first.path / "SHA256SUMS").unlink()
    with pytest.raises(DatasetError, match="half deleted"):
        site.refresh()


def small_disk(command: list[str], mount: Path, source: Path, free_bytes: int) -> subprocess.CompletedProcess[str]:
    """Run a command with a file system at `mount` that holds the datasets of `source` and has so much room left."""
    script = f"""
        set -e
        mount -t tmpfs -o size=1g none "{mount}"
        cp -r "{source}/datasets" "{mount}"
        ln -s "{source}/cache" "{source}/index" "{mount}"
        used=$(df --block-size=1 --output=used "{mount}" | tail -n 1)
        mount -o remount,size=$((used + {free_bytes})) "{mount}"
        exec "$@"
    """
    return subprocess.run(["unshare", "-rm", "bash", "-c", script, "-", *command], capture_output=True, text=True)


def test_a_full_or_read_only_disk_is_one_clear_error_and_leaves_every_version_whole(site: Site, tmp_path: Path) -> None:
    """On a file system as small as that, really: then there is room again, and the same command goes on."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system of their own")
    mount = tmp_path / "mount"
    mount.mkdir()
    command = [sys.executable, "-m", "tests.faults.full_disk", site.server.url, str(mount)]
    done = small_disk(command, mount, site.root, free_bytes=40_000)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for what, result in said.items():
        assert (result["wrong"], result["latest"]) == ([], 1), what
    for what in ("no room for tables", "no room for objects"):
        assert said[what]["error"] == "StorageError"
        assert "No space left on device; free some space there and run the same again" in said[what]["message"]
        assert str(mount) in said[what]["message"]
    assert said["read-only"]["error"] == "StorageError"
    assert f"cannot write {mount}" in said["read-only"]["message"]
    assert "Read-only file system; mount it writable" in said["read-only"]["message"]
    assert [said[what]["versions"] for what in said] == [1, 1, 1, 2]
