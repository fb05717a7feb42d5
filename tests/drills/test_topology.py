"""The way that operators fear: a worker and the server die in mid-build, and nobody is there to see to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.cells import read_marker
from pipeline.manifest import open_dataset
from pipeline.simulate.server import ArchiveServer, Fault
from pipeline.verify import verify_dataset
from tests.drills.deployments import begin_run, deploy, end_of, runs_of, small_cells, small_deployments
from tests.drills.processes import Started, wait_for
from tests.drills.topology import Topology

pytestmark = pytest.mark.drill

HUNG = "/das/imaging/5637/40/corr/4/fpC-005637-r4-0112.fit.gz"
"""A frame of some cells only: while the archive does not give it, the others are built and these are not."""
SILENT_S = 40
"""A run is taken for dead when nothing was heard of it for so long; heartbeats come every 30 s."""


@pytest.fixture(scope="module")
def archive(tiny_archive: Path) -> Iterator[ArchiveServer]:
    """An archive of which one frame hangs when it is first asked for."""
    with ArchiveServer(tiny_archive, faults=[Fault(HUNG, "slow", delay_s=600)]) as server:
        yield server


def test_a_build_whose_worker_and_server_die_completes_by_itself_and_is_trained_on_once(
    topology: Topology, archive: ArchiveServer
) -> None:
    """Set up, deploy, run, kill -9 of worker and flow, kill -9 of the server, new worker; then a scheduled refresh."""
    set_up(topology)
    survey = small_cells(topology.folder)
    deploy(topology, small_deployments(topology.folder, str(survey), archive.url))
    cpu, gpu = start_worker(topology, "worker"), start_worker(topology, "worker-no-gpu")

    run_id = begin_run(topology, "build-dataset")
    building, done = first_cells(topology, cpu, gpu)
    cpu.kill()
    topology.running["server"].kill()
    asked_before = len(archive.requests)
    topology.start_server()
    cpu = start_worker(topology, "worker")

    run = end_of(topology, run_id, 150, cpu, gpu, topology.running["services"])
    assert (run["state_type"], run["run_count"]) == ("COMPLETED", 2)
    dataset = open_dataset(topology.folder / "work/datasets/tiny")
    assert verify_dataset(dataset.path) == []
    check_only_the_rest_was_built(dataset.path, done, archive, asked_before)
    assert not building.exists()

    trained = follows(topology, "train-model", cpu, gpu)
    tuned = follows(topology, "fine-tune-model", cpu, gpu)
    evaluated = follows(topology, "evaluate-model", cpu, gpu)
    assert trained["parameters"]["upstream"] == run_id
    assert tuned["parameters"]["upstream"] == trained["id"]
    assert Path(evaluated["parameters"]["run"], "evaluation").exists()

    check_a_scheduled_refresh_changes_nothing(topology, cpu, gpu)


def set_up(topology: Topology) -> None:
    """What the service `setup` does, with less patience for runs that are silent."""
    command = f"from flows.setup import set_up; print(set_up(silent_s={SILENT_S}))"
    topology.run("set-up", ["python", "-c", command])


def start_worker(topology: Topology, service: str) -> Started:
    """Start a worker and wait until the server knows it."""
    port = {"worker": 4360, "worker-no-gpu": 4361}[service]
    worker = topology.start(
        service,
        PREFECT_WORKER_WEBSERVER_HOST="127.0.0.1",
        PREFECT_WORKER_WEBSERVER_PORT=str(port),
        PREFECT_WORKER_QUERY_SECONDS="2",
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30",
    )
    wait_for(f"{service} to be healthy", lambda: answers_ok(f"http://127.0.0.1:{port}/health"), 60, worker)
    return worker
