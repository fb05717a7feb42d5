"""Cells on a Dask cluster: the same bytes as here, whoever dies; and one clear error for what cannot work.

Schedulers and workers are processes of their own. `drill` tests run by `make drills`; the others take no cluster.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from dask.config import set as config_set
from distributed.security import Security

from benchmarks.support.daskcluster import DaskProcesses, wait_for
from flows.crews import cellprocess, cellworker, cluster
from flows.crews.cellprocess import CellProcess
from flows.crews.cellworker import check_in, ticket_for
from flows.crews.cluster import DaskCrew
from flows.crews.crew import CellWork
from pipeline.archive import Archive
from pipeline.build import Build, prepare
from pipeline.cellrecord import CellResult
from pipeline.cells import CellProgress, build_cell
from pipeline.errors import CellTimeout, ClusterError, WorkerDied
from pipeline.naming import LOCKS_FOLDER, cache_dir
from pipeline.simulate.server import ArchiveServer
from pipeline.survey import load_survey
from pipeline.verify import verify_dataset

TOLD: list[CellProgress] = []


@dataclass(frozen=True, slots=True)
class Site:
    """A planned build of small cells, and what its workers are told."""

    build: Build
    work: CellWork
    server: ArchiveServer


@contextmanager
def site_at(tree: Path, root: Path) -> Iterator[Site]:
    survey = load_survey("tiny")
    survey = survey.model_copy(update={"cells": survey.cells.model_copy(update={"ra_width_deg": 0.02})})
    with ArchiveServer(tree) as server:
        at = survey.with_root(server.url)
        with Archive(at.archives, cache_dir(root)) as archive:
            build = prepare(at, root, archive)
        work = CellWork(
            at, root, build.building, build.standards_sha256, retry_missing=False, seconds=120, connections=4
        )
        yield Site(build, work, server)


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
        with Archive(home.work.survey.archives, cache_dir(home.work.root)) as archive, ThreadPoolExecutor(2) as threads:
            for cell in home.build.plan.cells:
                build_cell(cell, home.work.survey, archive, threads, home.build.building, workers=2)
        expected = bytes_of(home.build.building)
    with site_at(tiny_archive, tmp_path / "away") as site:
        workers = {name: dask.start_worker(name) for name in ("a", "b")}
        assert dask.address_of("a") != dask.address_of("b")  # both are there
        crew = DaskCrew(dask.address, site.work, TOLD.append)
        killer = threading.Thread(target=kill_in_the_act, args=(crew, workers["a"], dask.address_of("a")))
        killer.start()
        results = build_all(site, crew)
        killer.join()
        assert any(progress.bytes_fetched for progress in TOLD)  # later cells find theirs in the cache
        counts = Counter(event["what"] for event in crew.events())
        crew.close()
        assert bytes_of(site.build.building) == expected
    assert workers["a"].wait(5) == -signal.SIGKILL
    assert [result.cell_id for result in results] == [cell.cell_id for cell in site.build.plan.cells]
    assert counts["begun"] == counts["done"] + 1
    assert not (site.build.building / LOCKS_FOLDER / crew._ticket.token).exists()


def kill_in_the_act(crew: DaskCrew, worker, address: str) -> None:  # type: ignore[no-untyped-def]
    """While the last that it said was that it began a cell."""

    def at_work() -> bool:
        mine = [event["what"] for event in crew.events() if event["worker"] == address]
        return mine[-1:] == ["begun"]

    wait_for(at_work, 60)
    worker.kill()


@pytest.mark.drill
def test_a_cluster_that_is_replaced_goes_on_and_one_that_is_gone_is_one_clear_error(
    site: Site, dask: DaskProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "LOOK_S", 0.2)
    with pytest.raises(ClusterError, match=f"the scheduler at {dask.address} has no worker: start `dask worker"):
        DaskCrew(dask.address, site.work, TOLD.append, connect_s=1)
    worker = dask.start_worker("a")
    crew = DaskCrew(dask.address, site.work, TOLD.append, connect_s=5)
    (cell, other, *_) = site.build.plan.cells
    worker.kill()
    worker.wait()
    with ThreadPoolExecutor(1) as threads:  # the only one is replaced while a cell waits for it
        built = threads.submit(crew.build, cell, dask.address_of("a"))
        wait_for(lambda: crew._client.futures, 10)  # type: ignore[union-attr]
        worker = dask.start_worker("b")
        assert built.result().cell_id == cell.cell_id
    worker.kill()
    crew._no_worker_s = 0.5
    with pytest.raises(ClusterError, match="has had no worker for 0 s"):
        crew.build(other, "tcp://127.0.0.1:1")
    crew._connect_s = 1
    dask.scheduler.kill()
    with pytest.raises(WorkerDied, match=f"the Dask scheduler at {dask.address} went away while it had to fetch cell"):
        crew.build(other, None)
    wait_for(lambda: crew._client.status == "closed", 20)  # type: ignore[union-attr]
    with pytest.raises(ClusterError, match="no Dask scheduler answers at"):
        crew.build(other, None)
    crew.close()


@pytest.mark.drill
def test_the_flow_publishes_the_same_dataset_with_a_cluster_as_without(
    prefect_server: None, tiny_archive: Path, tmp_path: Path, dask: DaskProcesses
) -> None:
    """Content, and so its id; workers keep their downloads where they are told to."""
    from flows.build import build_dataset

    dask.start_worker("a", threads=2, S82_CACHE=str(tmp_path / "scratch"))
    with ArchiveServer(tiny_archive) as server:
        site = {"survey": "tiny", "archive_root": server.url, "workers": 2}
        home = build_dataset(root=tmp_path / "home", **site)
        away = build_dataset(root=tmp_path / "away", dask=dask.address, **site)
    assert away.dataset_id == home.dataset_id
    assert away.cells_built == home.cells_built > 0
    assert verify_dataset(away.path) == []
    assert (tmp_path / "scratch" / "das").is_dir()
    assert not (tmp_path / "away" / "cache" / "das").exists()


@pytest.mark.drill
def test_a_cluster_behind_certificates_lets_in_only_who_has_them(site: Site, tmp_path: Path) -> None:
    """As docs/scaling.md says: the certificates are Dask's own configuration."""
    secure = Security.temporary()
    files = {kind: tmp_path / f"{kind}.pem" for kind in ("ca-file", "cert", "key")}
    for kind, content in (
        ("ca-file", secure.tls_ca_file),
        ("cert", secure.tls_client_cert),
        ("key", secure.tls_client_key),
    ):
        files[kind].write_text(str(content))
    config: dict[str, object] = {"require-encryption": True, "tls.ca-file": str(files["ca-file"])}
    for role in ("client", "scheduler", "worker"):
        config |= {f"tls.{role}.{kind}": str(files[kind]) for kind in ("cert", "key")}
    config = {f"distributed.comm.{key}": value for key, value in config.items()}
    variables = {
        "DASK_" + key.replace(".", "__").replace("-", "_").upper(): str(value) for key, value in config.items()
    }
    with DaskProcesses(tmp_path / "dask", "--protocol", "tls", environment=variables) as dask:
        dask.start_worker("a", "--protocol", "tls")
        assert dask.address.startswith("tls://")
        with pytest.raises(ClusterError, match="no Dask scheduler answers at"):
            DaskCrew(dask.address, site.work, TOLD.append, connect_s=3)
        with (
            config_set(config),
            DaskCrew(dask.address, site.work, TOLD.append) as crew,
        ):
            cell = site.build.plan.cells[0]
            assert crew.build(cell, None).cell_id == cell.cell_id


@pytest.mark.drill
def test_a_worker_without_this_software_is_refused(site: Site, dask: DaskProcesses, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['flows'] = None\n")
    dask.start_worker("a", PYTHONPATH=str(tmp_path))
    with pytest.raises(ClusterError, match=r"cannot run this software .*flows.*: install the same"):
        DaskCrew(dask.address, site.work, TOLD.append, connect_s=20)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "smoke://signals", "127.0.0.1:none"])
def test_an_address_where_no_scheduler_is_is_said(site: Site, address: str) -> None:
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers at .*build on this machine"):
        DaskCrew(address, site.work, TOLD.append, connect_s=0.5)
    assert not list((site.build.building / LOCKS_FOLDER).glob("cluster-*"))


def test_a_worker_that_would_build_another_dataset_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other software, another folder, a ledger between two machines: each says where and what to do."""
    monkeypatch.delenv("S82_CACHE", raising=False)
    ticket = ticket_for(site.work)
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
    monkeypatch.setenv("S82_CACHE", str(site.work.root / "scratch"))
    check_in(elsewhere)
    assert cache_dir(site.work.root) == site.work.root / "scratch"


def test_a_cell_process_that_hangs_or_is_killed_takes_only_its_cell_along(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process stands for one that hangs in a system call."""
    monkeypatch.setattr(cellprocess, "GRACE_S", 0.1)
    cell = site.build.plan.cells[0]
    hanging, killed = CellProcess(), CellProcess()
    os.kill(hanging._process.pid, signal.SIGSTOP)
    with pytest.raises(CellTimeout, match=rf"{cell.cell_id} was not done after 0 s and its process was ended"):
        hanging.build(replace(site.work, seconds=0.1), cell)
    assert not hanging.is_alive
    os.kill(killed._process.pid, signal.SIGSTOP)
    threading.Timer(0.1, killed.kill).start()
    with pytest.raises(WorkerDied, match=rf"built cell {cell.cell_id} ended \(killed by SIGKILL; .*out of memory"):
        killed.build(site.work, cell)
    assert not killed.is_alive


def test_a_cell_process_passes_on_what_the_cell_says(site: Site) -> None:
    """Errors as they were raised; after one the same process takes the next cell."""
    process, nowhere = CellProcess(), replace(site.work, building=Path("/proc/nowhere"))
    for cell in site.build.plan.cells[:2]:
        with pytest.raises(FileNotFoundError, match="/proc/nowhere"):
            process.build(nowhere, cell)
    process.end()


def test_a_frame_that_a_decoder_hangs_in_ends_the_process() -> None:
    code = """
import time
from flows.crews import cellprocess
cellprocess.LONGEST_CALL_S = 0.1
cellprocess._Cutter(1).submit(time.sleep, 60).result()
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False)
    assert "hung in a single frame" in cellprocess._how(ended.returncode)


def test_what_works_for_a_build_ends_when_it_is_over(site: Site) -> None:
    """Others go on; the idle ones are ended, for they take memory."""
    mine, other = cellworker._Processes(), replace(site.work, building=site.work.building / "other")
    busy, of_other, idle = (mine.take(job) for job in (site.work, other, site.work))
    mine.give_back(idle)
    mine.end(site.work)
    assert not idle.is_alive
    wait_for(lambda: not busy.is_alive, 5)
    assert of_other.is_alive
    mine.give_back(of_other)
    assert mine.take(other) is of_other
    of_other.end()
    busy.end()
