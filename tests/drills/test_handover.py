"""Training starts once per dataset version: after a build, whatever was recorded before it; and after none that failed.

On what `make server` starts, Prefect on SQLite, which loses records and events when many come at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.manifest import open_dataset
from pipeline.simulate.server import ArchiveServer, Fault
from pipeline.sums import write_sums
from tests.drills.deployments import begin_run, deploy, end_of, runs_of, small_deployments
from tests.drills.processes import Started, wait_for
from tests.drills.server import drill_folder
from tests.drills.single import SingleServer

pytestmark = pytest.mark.drill


@pytest.fixture(scope="module")
def archive(tiny_archive: Path) -> Iterator[ArchiveServer]:
    with ArchiveServer(tiny_archive) as server:
        yield server


@pytest.fixture(scope="module")
def server(archive: ArchiveServer) -> Iterator[SingleServer]:
    """Its deployments build the survey `tiny`; nobody trains, so runs of train-model stay scheduled."""
    with drill_folder() as folder, SingleServer(folder) as running:
        deploy(running, small_deployments(folder, "tiny", archive.url))
        yield running


@pytest.fixture(scope="module")
def version(server: SingleServer) -> Path:
    """A dataset version that build-dataset has published."""
    run = end_of(server, begin_run(server, "build-dataset"), 120, server.running["s82-server"])
    assert run["state_type"] == "COMPLETED", run["state"]
    return open_dataset(server.folder / "work/datasets/tiny").path


def test_the_same_version_twice_is_trained_on_once(server: SingleServer, version: Path) -> None:
    """The build, the automation, and a second build that finds nothing new: all call for the same run."""
    alive = server.running["s82-server"]
    again = end_of(server, begin_run(server, "build-dataset"), 90, alive)
    assert again["state_type"] == "COMPLETED"
    wait_for("the hand-over of the event", lambda: handed_over(server, version), 60, alive)
    (run,) = trainings(server, version)
    assert run["idempotency_key"].startswith("train-model/train-model:/")
    assert run["state_type"] == "SCHEDULED"


def test_a_failed_build_starts_nothing_and_a_version_after_five_tasks_is_trained_on_once(
    server: SingleServer, version: Path, tiny_archive: Path
) -> None:
    """While one build fails, its cells tried again and again, another version is handed over."""
    alive, elsewhere = server.running["s82-server"], server.folder / "failed"
    missing = [Fault("/das/*/fpC-*", "not_found", times=10_000)]
    with ArchiveServer(tiny_archive, faults=missing) as bad:
        failing = begin_run(server, "build-dataset", archive_root=bad.url, root=str(elsewhere), max_failed="0")
        check_version_after(server, version, 5, alive)
        failed = end_of(server, failing, 240, alive)  # SQLite was seen to lock itself up for a minute
    assert failed["state_type"] == "FAILED"
    assert "nothing was published" in failed["state"]["message"]
    assert not list(elsewhere.glob("datasets/*/latest"))
    datasets = [run["parameters"]["dataset"] for run in runs_of(server, "train-model") + runs_of(server, "hand-over")]
    assert not [dataset for dataset in datasets if dataset.startswith(str(elsewhere))]


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [500, 3000])
def test_a_version_after_many_tasks_is_trained_on_once(server: SingleServer, version: Path, tasks: int) -> None:
    """From 2,000 task runs on, a server on SQLite was seen to lose the event."""
    check_version_after(server, version, tasks, server.running["s82-server"])


def check_version_after(server: SingleServer, version: Path, tasks: int, alive: Started) -> None:
    """Hand a new version over after so many task runs; whether or not the event gets through, one training starts."""
    new = another_version(version, f"after-{tasks}")
    command = ["python", "-m", "tests.drills.many_tasks", str(tasks), str(new)]
    server.run(f"{tasks} tasks", command, seconds=120 + tasks / 5)
    assert len(trainings(server, new)) == 1
    came = wait_unless_lost(server, new, alive, seconds=30 + tasks / 20)
    print(f"after {tasks} tasks the event {'came' if came else 'was lost'}")  # noqa: T201  (for `pytest -rP`)
    assert len(trainings(server, new)) == 1


def another_version(version: Path, name: str) -> Path:
    """A copy of a dataset version that calls itself another."""
    copy = version.with_name(name)
    shutil.copytree(version, copy)
    file = copy / "dataset.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"dataset_id": f"{content['survey']['name']}-{name}"}))
    write_sums(copy, {})
    assert open_dataset(copy).info.dataset_id.endswith(name)
    return copy


def trainings(server: SingleServer, version: Path) -> list[dict[str, Any]]:
    """Runs of train-model on a version."""
    return [run for run in runs_of(server, "train-model") if run["parameters"]["dataset"] == str(version)]


def handed_over(server: SingleServer, version: Path) -> bool:
    """Whether the automation's run for a version has completed."""
    return any(
        run["parameters"]["dataset"] == str(version) and run["state_type"] == "COMPLETED"
        for run in runs_of(server, "hand-over")
    )


def wait_unless_lost(server: SingleServer, version: Path, alive: Started, seconds: float) -> bool:
    """Wait for the automation's run; False where the event did not get through in the time that it is given."""
    try:
        wait_for("the event", lambda: handed_over(server, version), seconds)
    except AssertionError:
        alive.check()
        return False
    return True
