"""A dataset that is refreshed for years: what is new or changed enters, the rest stays the very same files."""

from __future__ import annotations

import csv
import gzip
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.cells import CellProgress
from pipeline.differences import Changes, compare, read_changes
from pipeline.errors import DatasetError
from pipeline.manifest import Dataset, open_dataset
from pipeline.simulate.server import ArchiveServer, Fault
from pipeline.sums import read_sums
from pipeline.survey import SplitConfig
from pipeline.verify import verify_dataset
from pipeline.versions import versions
from tests.faults.conftest import build, refresh

MASTER = "sas/dr10/boss/papers/supernova/sdsssn_master.dat2"
FIELDS = "stripe82/Field.csv"
NEWEST = "5713"
FRAME = "das/imaging/5582/40/corr/4/fpC-005582-r4-0153.fit.gz"


@pytest.fixture
def server(spoilt: Path) -> Iterator[ArchiveServer]:
    with ArchiveServer(spoilt) as running:
        yield running


def hide_run(archive: Path, run: str) -> None:
    """Take a run out of the index: it was not observed yet."""
    rows = list(csv.reader((archive / FIELDS).read_text().splitlines()))
    column = rows[0].index("run")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([rows[0], *(row for row in rows[1:] if row[column] != run)])
    (archive / FIELDS).write_text(text.getvalue())


def release_again(file: Path) -> None:
    """The same frame with other pixels, as a reprocessing leaves it."""
    content = bytearray(gzip.decompress(file.read_bytes()))
    data = np.frombuffer(content, ">u2", offset=len(content) // 2880 // 2 * 2880)[: 2048 * 100]
    data += 3
    file.write_bytes(gzip.compress(bytes(content), mtime=0))


def asked_frames(server: ArchiveServer) -> list[str]:
    return [request.path for request in server.requests if "fpC-" in request.path or "frame-" in request.path]


class Cells:
    """Which cells were cut, not taken over."""

    def __init__(self) -> None:
        self.cut: set[str] = set()

    def __call__(self, progress: CellProgress) -> None:
        if progress.frames_done < progress.frames_total:
            self.cut.add(progress.cell_id)


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
        assert row.fold == files[row.object_id].fold


def test_where_nothing_changed_there_is_no_new_version_and_no_frame_is_asked_for(
    server: ArchiveServer, tmp_path: Path
) -> None:
    first = build(server.url, tmp_path / "root", cell_width_deg=0.06)
    before = len(asked_frames(server))
    assert refresh(server.url, tmp_path / "root").path == first.path
    assert build(server.url, tmp_path / "root", cell_width_deg=0.06).path == first.path
    assert version_names(first) == [first.path.name]
    assert len(asked_frames(server)) == before


def test_a_new_run_enters_and_the_result_is_that_of_a_build_from_nothing(
    server: ArchiveServer, spoilt: Path, tmp_path: Path
) -> None:
    """Only cells that the run covers are cut again, and every file is bit for bit what a fresh build gives."""
    fields = (spoilt / FIELDS).read_bytes()
    hide_run(spoilt, NEWEST)
    first = build(server.url, tmp_path / "root", cell_width_deg=0.06)
    assert not any(NEWEST in name for row in first.objects for name in map(str, first.sequence(row).run.tolist()))
    (spoilt / FIELDS).write_bytes(fields)
    cells = Cells()
    second = refresh(server.url, tmp_path / "root", cells)
    changes = read_changes(second)
    assert (changes.old, changes.new) == (first.info.dataset_id, second.info.dataset_id)
    assert changes == compare(first, second)
    assert changes.why == {"new images": changes.counts["changed"]} | {
        key: number for key, number in changes.why.items() if key != "new images"
    }
    assert all(name.startswith(f"{NEWEST}/41/") for one in changes.objects for name in one.images_added)
    assert cells.cut == {
        row["cell"] for row in second.table("manifest.parquet").to_pylist()
        if row["object_id"] in {one.object_id for one in changes.objects}
    }  # fmt: skip
    fresh = build(server.url, tmp_path / "fresh", cell_width_deg=0.06)
    same = {name: sha for name, sha in read_sums(fresh.path).items() if name not in ("changes.json",)}
    assert {name: read_sums(second.path)[name] for name in same} == same
    assert second.path.name == fresh.path.name
    assert verify_dataset(second.path) == verify_dataset(first.path) == []
    assert version_names(second) == [first.path.name, second.path.name]
    assert open_dataset(second.path.parent).path == second.path


def test_a_frame_that_was_released_again_is_noticed_and_only_its_images_change(
    server: ArchiveServer, spoilt: Path, tmp_path: Path
) -> None:
    first = build(server.url, tmp_path / "root", cell_width_deg=0.06)
    release_again(spoilt / FRAME)
    assert refresh(server.url, tmp_path / "root").path == first.path, "nobody asked the archive for its files again"
    second = refresh(server.url, tmp_path / "root", recheck=True)
    changes = read_changes(second)
    assert changes.why["frames changed upstream"] == changes.counts["changed"] > 0
    assert changes.counts["added"] == changes.counts["removed"] == 0
    assert all("5582/40/4/153/r" in one.images_changed for one in changes.objects)
    assert all(not one.images_added and not one.images_removed for one in changes.objects)
    assert verify_dataset(second.path) == verify_dataset(first.path) == []
    assert refresh(server.url, tmp_path / "root", recheck=True).path == second.path


def test_a_changed_frame_is_noticed_though_it_is_not_in_the_cache_any_more(
    server: ArchiveServer, spoilt: Path, tmp_path: Path
) -> None:
    """And what did not change is not sent again."""
    root = tmp_path / "root"
    first = build(server.url, root, cell_width_deg=0.06)
    for file in [*(root / "cache/das").rglob("*.fit*"), *(root / "cache/sas").rglob("*.fits*")]:
        file.unlink()
    release_again(spoilt / FRAME)
    sent = sum(request.status == 200 for request in server.requests)
    second = refresh(server.url, root, recheck=True)
    assert second.path != first.path
    of_recheck = [request for request in server.requests if request.status == 200][sent:]
    cut_again = {one.split("/")[-1] for one in map(lambda request: request.path, of_recheck)}
    assert Path(FRAME).name in cut_again
    assert {"304"} <= {str(request.status) for request in server.requests}


def test_a_file_that_was_missing_enters_when_the_archive_has_it(spoilt: Path, tmp_path: Path) -> None:
    gone = Fault(f"/{FRAME}", "not_found", times=1)
    with ArchiveServer(spoilt, faults=[gone]) as server:
        first = build(server.url, tmp_path / "root", cell_width_deg=0.06)
        assert "not-in-archive" in first.table("skips.parquet")["reason"].to_pylist()
        second = refresh(server.url, tmp_path / "root")
    changes = read_changes(second)
    assert {name for one in changes.objects for name in one.images_added} == {"5582/40/4/153/r"}
    assert "not-in-archive" not in second.table("skips.parquet")["reason"].to_pylist()
    assert_shared(first, second, changes)


def test_labels_positions_and_objects_that_come_and_go(server: ArchiveServer, spoilt: Path, tmp_path: Path) -> None:
    """The list of objects changes as lists do; every change is told with its reason."""
    master = spoilt / MASTER
    lines = master.read_text().splitlines(keepends=True)
    first = build(server.url, tmp_path / "root", cell_width_deg=0.06)
    known = {row.object_id: row for row in first.objects}
    table = [line for line in lines if line.split() and line.split()[0] in known]
    relabelled = next(line for line in table if known[line.split()[0]].class_name == "AGN")
    removed = next(line for line in table if line is not relabelled)
    assert relabelled.count("AGN") == 1
    text = "".join(line for line in lines if line is not removed).replace(relabelled, relabelled.replace("AGN", "SNIa"))
    master.write_text(text)
    with pytest.raises(DatasetError, match=r"1 of the 14 objects of tiny-\w+ would be gone.*--max-removed"):
        refresh(server.url, tmp_path / "root")
    assert version_names(first) == [first.path.name]
    second = refresh(server.url, tmp_path / "root", max_removed=0.1)
    changes = {one.object_id: one for one in read_changes(second).objects}
    assert changes[relabelled.split()[0]].why == ("label",)
    assert changes[removed.split()[0]].kind == "removed"
    assert changes[removed.split()[0]].why == ("not in the object list any more",)
    assert len(changes) == 2
    master.write_text("".join(lines))
    third = refresh(server.url, tmp_path / "root")
    assert third.path == first.path, "the same content is the same version"
    assert open_dataset(third.path.parent).path == first.path
    assert compare(second, third).counts["added"] == 1


def test_another_rule_for_folds_cuts_nothing_anew(server: ArchiveServer, tmp_path: Path) -> None:
    first = build(server.url, tmp_path / "root", cell_width_deg=0.06)
    asked, cells = len(asked_frames(server)), Cells()
    second = refresh(server.url, tmp_path / "root", cells, changes={"splits": SplitConfig(folds=3, seed=5)})
    assert (cells.cut, len(asked_frames(server))) == (set(), asked)
    changes = read_changes(second)
    assert changes.counts["unchanged"] == 14
    assert changes.counts["moved_fold"] > 0
    assert_shared(first, second, changes)


def test_across_devices_files_are_copied(
    server: ArchiveServer, spoilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    first = build(server.url, tmp_path / "root", cell_width_deg=0.06)
    monkeypatch.setattr(os, "link", no_links)
    second = refresh(server.url, tmp_path / "root", changes={"splits": SplitConfig(folds=3, seed=5)})
    assert verify_dataset(second.path) == []
    assert {row.sha256 for row in first.objects} == {row.sha256 for row in second.objects}


def test_a_file_that_rotted_in_the_version_before_is_not_taken_over(server: ArchiveServer, tmp_path: Path) -> None:
    """Its cell is cut again; the damaged version is left as it is, and `verify` tells."""
    first = build(server.url, tmp_path / "root", cell_width_deg=0.06)
    victim = first.path / first.objects[3].file
    rotten = bytearray(victim.read_bytes())
    rotten[-9] ^= 4
    victim.write_bytes(rotten)
    second = refresh(server.url, tmp_path / "root", changes={"splits": SplitConfig(folds=3, seed=5)})
    assert verify_dataset(second.path) == []
    assert victim.read_bytes() == rotten
    assert [problem.file for problem in verify_dataset(first.path)] == [first.objects[3].file]


def test_a_version_that_was_half_deleted_stops_a_refresh_with_what_to_do(server: ArchiveServer, tmp_path: Path) -> None:
    first = build(server.url, tmp_path / "root", cell_width_deg=0.06)
    shutil.rmtree(first.path / "objects")
    with pytest.raises(DatasetError, match=r"is published but damaged: 14 files are missing.*move it away"):
        refresh(server.url, tmp_path / "root")
    (first.path / "SHA256SUMS").unlink()
    with pytest.raises(DatasetError, match="half deleted"):
        refresh(server.url, tmp_path / "root")
