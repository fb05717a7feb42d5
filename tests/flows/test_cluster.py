"""Cells on a Dask cluster: the same bytes as here, whoever dies; and one clear error for what cannot work.

Schedulers and workers are processes of their own. `drill` tests run by `make drills`; the others take no cluster.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from benchmarks.support.daskcluster import DaskProcesses, wait_for
from flows import cellprocess, cellworker, cluster
from flows.cellprocess import CellProcess, Job
from flows.cellworker import check_in, ticket_for
from flows.cluster import DaskCrew
from pipeline.archive import Archive
from pipeline.build import Build, prepare
from pipeline.cells import CellResult, build_cell
from pipeline.errors import CellTimeout, ClusterError, WorkerDied
from pipeline.naming import LOCKS_FOLDER, cache_dir
from pipeline.simulate.server import ArchiveServer
from pipeline.survey import load_survey


@dataclass(frozen=True, slots=True)
class Site:
    """A planned build of small cells, and what its workers are told."""

    build: Build
    job: Job
    server: ArchiveServer


@contextmanager
def site_at(tree: Path, root: Path) -> Iterator[Site]:
    survey = load_survey("tiny")
    survey = survey.model_copy(update={"cells": survey.cells.model_copy(update={"ra_width_deg": 0.02})})
    with ArchiveServer(tree) as server:
        at = survey.with_root(server.url)
        with Archive(at.archives, cache_dir(root)) as archive:
            build = prepare(at, root, archive)
        yield Site(build, Job(at, root, build.building, build.standards_sha256, cell_seconds=120), server)


@pytest.fixture
def site(tiny_archive: Path, tmp_path: Path) -> Iterator[Site]:
    with site_at(tiny_archive, tmp_path / "root") as site:
        yield site


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[DaskProcesses]:
    with DaskProcesses(tmp_path / "dask") as processes:
        yield processes


def build_all(site: Site, crew: DaskCrew, at_once: int = 2) -> list[CellResult]:
    """As a flow's threads do."""

    def one(cell):  # type: ignore[no-untyped-def]
        return crew.build(cell, crew.fetch(cell))

    with ThreadPoolExecutor(at_once) as threads:
        return list(threads.map(one, site.build.plan.cells))


def bytes_of(folder: Path) -> dict[str, str]:
    """sha256 of every file but locks, by its path."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file() and LOCKS_FOLDER not in file.parts
    }


@pytest.mark.drill
def test_a_cluster_that_loses_a_worker_gives_the_bytes_of_a_build_at_home(
    tiny_archive: Path, tmp_path: Path, dask: DaskProcesses
) -> None:
    """The worker is killed while it builds; its cell process ends with it, and another redoes only that cell."""
    with site_at(tiny_archive, tmp_path / "home") as home:
        with Archive(home.job.survey.archives, cache_dir(home.job.root)) as archive, ThreadPoolExecutor(2) as threads:
            for cell in home.build.plan.cells:
                build_cell(cell, home.job.survey, archive, threads, home.build.building, workers=2)
        expected = bytes_of(home.build.building)
    with site_at(tiny_archive, tmp_path / "away") as site:
        workers = {name: dask.start_worker(name) for name in ("a", "b")}
        crew = DaskCrew(dask.address, site.job)
        addresses = {info["name"]: address for address, info in crew._connected().scheduler_info()["workers"].items()}
        killer = threading.Thread(target=kill_in_the_act, args=(crew, workers["a"], addresses["a"]))
        killer.start()
        results = build_all(site, crew)
        killer.join()
        begun = Counter(event["cell"] for event in crew.events() if event["what"] == "begun")
        crew.close()
        assert bytes_of(site.build.building) == expected
    assert workers["a"].wait(5) == -signal.SIGKILL
    assert {result.cell_id for result in results} == set(begun)
    assert sum(begun.values()) == len(results) + 1
    assert not (site.build.building / LOCKS_FOLDER / crew._ticket.token).exists()


def kill_in_the_act(crew: DaskCrew, worker, address: str) -> None:  # type: ignore[no-untyped-def]
    """While the last that it said was that it began a cell."""

    def at_work() -> bool:
        mine = [event["what"] for event in crew.events() if event["worker"] == address]
        return mine[-1:] == ["begun"]

    wait_for(at_work, 60)
    worker.kill()


@pytest.mark.drill
def test_a_cluster_without_workers_and_one_without_scheduler_end_in_one_clear_error(
    site: Site, dask: DaskProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "LOOK_S", 0.2)
    with pytest.raises(ClusterError, match=f"the scheduler at {dask.address} has no worker: start `dask worker"):
        DaskCrew(dask.address, site.job, connect_s=1)
    worker = dask.start_worker("a")
    crew = DaskCrew(dask.address, site.job, no_worker_s=0.5, connect_s=10)
    (cell, other, *_) = site.build.plan.cells
    assert crew.build(cell, None).cell_id == cell.cell_id
    worker.kill()
    with pytest.raises(ClusterError, match="has had no worker for 0 s"):
        crew.build(other, "tcp://127.0.0.1:1")
    crew._connect_s = 1
    dask.scheduler.kill()
    with pytest.raises(WorkerDied, match=f"the Dask scheduler at {dask.address} went away while it had to build cell"):
        crew.build(other, None)
    wait_for(lambda: crew._client.status == "closed", 20)  # type: ignore[union-attr]
    with pytest.raises(ClusterError, match="no Dask scheduler answers at"):
        crew.build(other, None)
    crew.close()


@pytest.mark.drill
def test_a_worker_without_this_software_is_refused(site: Site, dask: DaskProcesses, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['flows'] = None\n")
    dask.start_worker("a", PYTHONPATH=str(tmp_path))
    with pytest.raises(ClusterError, match=r"cannot run this software .*flows.*: install the same"):
        DaskCrew(dask.address, site.job, connect_s=20)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "smoke://signals", "127.0.0.1:none"])
def test_an_address_where_no_scheduler_is_is_said(site: Site, address: str) -> None:
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers at .*build on this machine"):
        DaskCrew(address, site.job, connect_s=0.5)
    assert not list((site.build.building / LOCKS_FOLDER).glob("cluster-*"))


def test_a_worker_that_would_build_another_dataset_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other software, another folder, a ledger between two machines: each says where and what to do."""
    monkeypatch.delenv("S82_CACHE", raising=False)
    ticket = ticket_for(site.job)
    assert check_in(ticket)["stripe82-convention"]
    newer = replace(ticket.software, pipeline=ticket.software.pipeline + 1)
    with pytest.raises(
        ClusterError, match=r"pipeline version 2, .*the flow has .*pipeline version 3.*install the same"
    ):
        check_in(replace(ticket, software=newer))
    with pytest.raises(ClusterError, match=r"does not see .*building.*: mount the folder"):
        check_in(replace(ticket, token="cluster-other"))  # noqa: S106  (a file's name)
    elsewhere = replace(ticket, machine="far away")
    with pytest.raises(ClusterError, match=r"share .*cache with another machine.*S82_CACHE set to a folder"):
        check_in(elsewhere)
    monkeypatch.setenv("S82_CACHE", str(site.job.root / "scratch"))
    check_in(elsewhere)
    assert cache_dir(site.job.root) == site.job.root / "scratch"


def test_a_cell_process_that_hangs_or_is_killed_takes_only_its_cell_along(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process stands for one that hangs in a system call."""
    monkeypatch.setattr(cellprocess, "GRACE_S", 0.1)
    cell = site.build.plan.cells[0]
    hanging, killed = CellProcess(), CellProcess()
    os.kill(hanging._process.pid, signal.SIGSTOP)
    with pytest.raises(CellTimeout, match=rf"{cell.cell_id} was not done after 0 s and its process was ended"):
        hanging.build(replace(site.job, cell_seconds=0.1), cell)
    assert not hanging.is_alive
    os.kill(killed._process.pid, signal.SIGSTOP)
    threading.Timer(0.1, killed.kill).start()
    with pytest.raises(WorkerDied, match=rf"built cell {cell.cell_id} ended \(killed by SIGKILL; .*out of memory"):
        killed.build(site.job, cell)
    assert not killed.is_alive


def test_a_cell_process_passes_on_what_the_cell_says(site: Site) -> None:
    """Errors as they were raised; after them the same process builds the next cell."""
    process, cell = CellProcess(), site.build.plan.cells[0]
    nowhere = replace(site.job, building=Path("/proc/nowhere"))
    with pytest.raises(FileNotFoundError, match="/proc/nowhere"):
        process.build(nowhere, cell)
    assert process.build(site.job, cell).cell_id == cell.cell_id
    process.end()


def test_what_works_for_a_build_ends_when_it_is_over(site: Site) -> None:
    """Others go on; the idle ones are ended, for they take memory."""
    mine, other = cellworker._Processes(), replace(site.job, building=site.job.building / "other")
    busy, of_other, idle = (mine.take(job) for job in (site.job, other, site.job))
    mine.give_back(idle)
    mine.end(site.job)
    assert not idle.is_alive
    wait_for(lambda: not busy.is_alive, 5)
    assert of_other.is_alive
    mine.give_back(of_other)
    assert mine.take(other) is of_other
    of_other.end()
    busy.end()
