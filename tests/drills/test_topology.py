"""What operators fear: a worker and the server die in mid-build, and nobody is there to see to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.cellrecord import read_marker
from pipeline.manifest import open_dataset
from pipeline.naming import CELLS_FOLDER
from pipeline.simulate.server import ArchiveServer, Fault
from pipeline.verify import verify_dataset
from tests.drills.deployments import begin_run, deploy, end_of, only_run_of, runs_of, small_cells, small_deployments
from tests.drills.processes import Started, wait_for
from tests.drills.topology import Topology

pytestmark = pytest.mark.drill

HUNG: Final = "/das/imaging/5637/40/corr/4/fpC-005637-r4-0112.fit.gz"
"""A frame of some cells only: before the archive gives it, the others are built and these are not."""
SILENT_S: Final = 60
"""A run is taken for dead when nothing was heard of it for so long; heartbeats come every 30 s."""
REFRESH: Final = "refresh-dataset/refresh-dataset"


@pytest.fixture
def archive(tiny_archive: Path) -> Iterator[ArchiveServer]:
    """An archive that takes its time for one frame, the first time that it is asked for it."""
    with ArchiveServer(tiny_archive, faults=[Fault(HUNG, "slow", delay_s=20)]) as server:
        yield server


def test_a_build_whose_worker_and_server_die_completes_by_itself_and_is_trained_on_once(
    topology: Topology, archive: ArchiveServer
) -> None:
    """Set up, deploy, run; kill -9 of worker, flow and server; a new worker; training; a scheduled refresh."""
    set_up(topology)
    deploy(topology, small_deployments(topology.folder, str(small_cells(topology.folder)), archive.url))
    assert {run["state_type"] for run in runs_of(topology, "refresh-dataset")} <= {"SCHEDULED"}
    topology.start("watcher")
    cpu, gpu = topology.start_worker("worker"), topology.start_worker("worker-no-gpu")

    run_id = begin_run(topology, "build-dataset")
    done = finished_cells(topology, cpu, gpu)
    cpu.kill()
    assert not topology.says_it_is_healthy("worker")
    topology.running["server"].kill()
    fetched_before = whole_files(archive)
    topology.start_server()
    cpu = topology.start_worker("worker")

    run = end_of(topology, run_id, 180, cpu, gpu, topology.running["services"], topology.running["watcher"])
    assert (run["state_type"], run["run_count"]) == ("COMPLETED", 2)
    version = check_only_the_rest_was_built(topology, archive, done, fetched_before)

    trained = check_training_followed_once(topology, run_id, version, cpu, gpu)
    refresh = scheduled_refresh(topology, cpu, gpu)
    assert refresh["state_type"] == "COMPLETED"
    assert refresh["auto_scheduled"]
    assert open_dataset(topology.folder / "work/datasets/tiny").path == version  # nothing was new: no new version
    assert [run["id"] for run in runs_of(topology, "train-model")] == [trained["id"]]


def set_up(topology: Topology) -> None:
    """What the service `setup` does first, but with less patience for runs that are silent."""
    command = f"from flows.operation.setup import set_up; print(set_up(silent_s={SILENT_S}))"
    topology.run("set-up", ["python", "-c", command])


def finished_cells(topology: Topology, *alive: Started) -> dict[Path, int]:
    """Done-markers of a build that is under way, once there is one, with the times when they were written."""
    versions = topology.folder / "work/datasets/tiny"

    def markers() -> dict[Path, int]:
        found = versions.glob(f".building-*/{CELLS_FOLDER}/*.json")
        return {file.relative_to(file.parents[1]): file.stat().st_mtime_ns for file in found}

    found = wait_for("a finished cell", markers, 120, *alive)
    assert not (versions / "latest").exists()
    return found


def whole_files(archive: ArchiveServer) -> Counter[str]:
    """How often each file was given from its beginning to its end."""
    return Counter(request.path for request in archive.requests if request.status == 200 and request.n_bytes)


def check_only_the_rest_was_built(
    topology: Topology, archive: ArchiveServer, done: dict[Path, int], fetched_before: Counter[str]
) -> Path:
    """The dataset is whole; what was done before is what it was, and was not asked for again. The version's folder."""
    version = open_dataset(topology.folder / "work/datasets/tiny").path
    assert verify_dataset(version) == []
    cells = [file.stem for file in (version / CELLS_FOLDER).glob("*.json")]
    assert 0 < len(done) < len(cells)
    assert {marker: (version / marker).stat().st_mtime_ns for marker in done} == done
    fetched = whole_files(archive)
    for marker in done:
        result = read_marker(version, marker.stem)
        assert result is not None
        for frame in result.frames:
            (path,) = {path for path in fetched_before if path.endswith(frame["path"])}
            assert fetched[path] == fetched_before[path] == 1
    return version


def check_training_followed_once(topology: Topology, run_id: str, version: Path, *alive: Started) -> dict[str, Any]:
    """The three steps after the build, each once, each knowing the one before. The first one's run."""
    upstream, first = run_id, {}
    for deployment in ("train-model", "fine-tune-model", "evaluate-model"):
        wait_for(f"a run of {deployment}", lambda name=deployment: runs_of(topology, name), 30, *alive)
        run = end_of(topology, only_run_of(topology, deployment)["id"], 90, *alive)
        assert run["state_type"] == "COMPLETED", run["state"]
        assert run["parameters"]["dataset"] == str(version)
        assert run["parameters"]["upstream"] == upstream
        upstream, first = run["id"], first or run
    # The automation called, too, and what it called for was there already.
    wait_for("the hand-overs", lambda: len(states(topology, "hand-over")) >= 3, 30, *alive)
    assert {run["parameters"]["deployment"] for run in runs_of(topology, "hand-over")} >= {"train-model/train-model"}
    return first


def states(topology: Topology, deployment: str) -> list[str]:
    """Of the runs of a deployment that have completed, their names."""
    return [run["name"] for run in runs_of(topology, deployment) if run["state_type"] == "COMPLETED"]


def scheduled_refresh(topology: Topology, *alive: Started) -> dict[str, Any]:
    """Have a refresh every 20 s, and wait for the first run that the server makes of that."""
    topology.run("schedule", ["prefect", "deployment", "schedule", "create", REFRESH, "--interval", "20"])

    def begun() -> list[dict[str, Any]]:
        return [run for run in runs_of(topology, "refresh-dataset") if run["state_type"] != "SCHEDULED"]

    first, *_ = wait_for("a scheduled run", begun, 90, *alive)
    return end_of(topology, first["id"], 60, *alive)
