"""One cell at a time: fetched in its turn, given up when its time is over, left out when it fails for good."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.archive import Archive
from pipeline.build import Build, exclusive, prepare
from pipeline.cellrecord import CellResult
from pipeline.cells import CellProgress, build_cell
from pipeline.errors import BeingBuilt, CellTimeout
from pipeline.manifest import open_dataset
from pipeline.naming import cache_dir
from pipeline.prefetch import fetch_cell
from pipeline.publish import publish
from pipeline.reuse import hold_against_versions
from pipeline.simulate.server import ArchiveServer, Fault
from pipeline.verify import verify_dataset
from tests.faults.conftest import IMPATIENT, build, survey_at

LOST = "/das/imaging/5582/40/corr/4/fpC-005582-r4-0153.fit.gz"


def frames_asked(server: ArchiveServer) -> list[str]:
    return [request.path for request in server.requests if "fpC-" in request.path or "frame-" in request.path]


def test_a_cell_that_was_fetched_is_cut_without_another_request(tiny_archive: Path, tmp_path: Path) -> None:
    """Its turn at the archive is over when it is fetched; what the archive lacks is found out in that turn, too."""
    with ArchiveServer(tiny_archive, faults=[Fault(LOST, "not_found", times=99)]) as server:
        survey = survey_at(server.url, 1.0, None)
        with Archive(survey.archives, cache_dir(tmp_path), IMPATIENT) as archive, ThreadPoolExecutor(2) as executor:
            planned = prepare(survey, tmp_path, archive)
            (cell,) = planned.plan.cells
            told: list[CellProgress] = []

            def fetch() -> int:
                return fetch_cell(
                    cell, survey, archive, planned.building,
                    standards_sha256=planned.standards_sha256, connections=2, progress=told.append,
                )  # fmt: skip

            n_files = fetch()
            asked = len(server.requests)
            assert told[-1].bytes_fetched == max(one.bytes_fetched for one in told) > 1e6
            assert {one.frames_done for one in told} == {0}
            assert n_files > len(frames_asked(server)) > 10
            result = build_cell(cell, survey, archive, executor, planned.building, workers=2)
            assert fetch() == 0  # it is done
            assert len(server.requests) == asked
    assert [skip["reason"] for skip in result.skips if skip["reason"] != "low-coverage"] == ["not-in-archive"]


def test_a_cell_whose_time_is_over_is_given_up_and_built_the_next_time(tiny_archive: Path, tmp_path: Path) -> None:
    with ArchiveServer(tiny_archive, faults=[Fault(LOST, "slow", delay_s=3)]) as server:
        survey = survey_at(server.url, 1.0, None)
        with Archive(survey.archives, cache_dir(tmp_path), IMPATIENT) as archive, ThreadPoolExecutor(2) as executor:
            planned = prepare(survey, tmp_path, archive)
            (cell,) = planned.plan.cells
            began = time.monotonic()
            with pytest.raises(CellTimeout, match=cell.cell_id):
                build_cell(cell, survey, archive, executor, planned.building, workers=2, seconds=1.5)
            assert time.monotonic() - began < 2.9
            with pytest.raises(CellTimeout, match="was not fetched in"):
                fetch_cell(
                    cell, survey, archive, planned.building,
                    standards_sha256=planned.standards_sha256, connections=2, seconds=0,
                )  # fmt: skip
            assert build_cell(cell, survey, archive, executor, planned.building, workers=2).objects


def test_a_dataset_without_a_failed_cell_says_so_and_the_next_build_makes_up_for_it(
    tiny_archive: Path, tmp_path: Path
) -> None:
    def build_all_but_one(url: str) -> tuple[Build, list[CellResult], str]:
        survey = survey_at(url, 0.06, None)
        with Archive(survey.archives, cache_dir(tmp_path), IMPATIENT) as archive, ThreadPoolExecutor(2) as executor:
            planned = prepare(survey, tmp_path, archive)
            hold_against_versions(planned, archive)
            lost, *others = planned.plan.cells
            results = [build_cell(cell, survey, archive, executor, planned.building, workers=2) for cell in others]
        return planned, results, lost.cell_id

    with ArchiveServer(tiny_archive) as server:
        planned, results, lost = build_all_but_one(server.url)
        with exclusive(planned):
            without = publish(planned, results, {}, failed={lost: "its disk was full"})
        assert verify_dataset(without.path) == []
        missing = {target.object_id for cell in planned.plan.cells if cell.cell_id == lost for target in cell.targets}
        rows = [row for row in without.table("skips.parquet").to_pylist() if row["reason"] == "cell-failed"]
        assert {row["object_id"] for row in rows} == missing
        assert rows[0]["detail"] == f"cell {lost}: its disk was full"
        assert missing.isdisjoint(row.object_id for row in without.objects)
        begun: set[str] = set()
        whole = build(server.url, tmp_path, lambda progress: begun.add(progress.cell_id), cell_width_deg=0.06)
    assert whole.path != without.path
    assert missing <= {row.object_id for row in whole.objects}
    assert verify_dataset(whole.path) == []
    assert open_dataset(whole.path.parent).path == whole.path


def test_who_waits_for_another_build_goes_on_when_that_is_done(tiny_archive: Path, tmp_path: Path) -> None:
    with ArchiveServer(tiny_archive) as server:
        survey = survey_at(server.url, 1.0, None)
        with Archive(survey.archives, cache_dir(tmp_path), IMPATIENT) as archive:
            planned = prepare(survey, tmp_path, archive)
    release = threading.Event()

    def hold() -> None:
        with exclusive(planned):
            held.set()
            release.wait(10)

    held = threading.Event()
    with ThreadPoolExecutor(1) as other:
        other.submit(hold)
        assert held.wait(10)
        with pytest.raises(BeingBuilt, match="survey tiny is being built by another process"), exclusive(planned):
            pass
        threading.Timer(0.2, release.set).start()
        with exclusive(planned, wait_s=10):
            assert release.is_set()
