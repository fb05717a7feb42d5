"""Old runs go with their artifacts; the newest of a deployment and the keepers of a version stay."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from tests.pipeline.small import small_dataset

pytestmark = pytest.mark.usefixtures("prefect_server")
OLD_DAYS = 400
DAYS = 300
"""Younger than anything here and older than the runs of other tests, with whom the server is shared."""


@pytest.fixture(scope="module")
def deployments(prefect_server: None) -> tuple[UUID, UUID]:
    from prefect import flow
    from prefect.client.orchestration import get_client

    @flow(name="kept-up")
    def kept_up() -> None: ...

    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(kept_up)
        first, second = (client.create_deployment(flow_id=flow_id, name=name) for name in ("one", "two"))
    return first, second


def run_of(deployment: UUID, days: float, state: str = "COMPLETED", tags: tuple[str, ...] = ()) -> UUID:
    """A run that ended so many days ago, or has not."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import State, StateType

    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment, tags=[*tags])
        client.set_flow_run_state(run.id, State(type=StateType(state)), force=True)
    aged(run.id, days)
    return run.id


def aged(run: UUID, days: float) -> None:
    """Let it have ended so long ago: no call of the API does that."""
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

    file = str(PREFECT_API_DATABASE_CONNECTION_URL.value()).partition(":///")[2]
    when = f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d %H:%M:%S.%f}"
    with closing(sqlite3.connect(file, timeout=30)) as database, database:
        database.execute("UPDATE flow_run SET end_time = ? WHERE id = ? AND end_time NOT NULL", (when, str(run)))


def left(*runs: UUID) -> list[bool]:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    found = []
    with get_client(sync_client=True) as client:
        for run in runs:
            try:
                client.read_flow_run(run)
                found.append(True)
            except ObjectNotFound:
                found.append(False)
    return found


def artifact_of(run: UUID) -> UUID:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactCreate

    with get_client(sync_client=True) as client:
        return client.create_artifact(ArtifactCreate(key="a-table", type="table", data="[]", flow_run_id=run)).id


def artifacts(run: UUID) -> int:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    with get_client(sync_client=True) as client:
        return len(
            client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run])))
        )


def test_old_runs_go_and_what_must_stay_stays(deployments: tuple[UUID, UUID], tmp_path: Path) -> None:
    from flows.upkeep import clear_runs, upkeep

    one, two = deployments
    goes = run_of(one, OLD_DAYS)
    last_good = run_of(one, OLD_DAYS - 1)
    last = run_of(one, OLD_DAYS - 2, "FAILED")
    keeper = run_of(two, OLD_DAYS, tags=("dataset:tiny-v1",))
    handed = run_of(two, OLD_DAYS, tags=("dataset:tiny-v0",))
    young = run_of(two, 1)
    unfinished = run_of(two, OLD_DAYS, "PENDING")
    artifact_of(goes)
    artifact_of(last)
    kept = frozenset({"tiny-v1"})
    assert clear_runs(DAYS, kept_versions=kept, dry_run=True) == 2
    assert all(left(goes, handed))
    done = upkeep(root=tmp_path, run_days=DAYS, dry_run=True)
    assert (done.runs, done.versions, done.freed_bytes) == (3, (), 0)  # nothing lies at this root: no version is kept
    assert clear_runs(DAYS, kept_versions=kept, dry_run=False) == 2
    assert left(goes, handed) == [False, False]
    assert left(last_good, last, keeper, young, unfinished) == [True] * 5
    assert (artifacts(goes), artifacts(last)) == (0, 1)
    assert clear_runs(DAYS, kept_versions=kept, dry_run=False) == 0


def test_a_version_that_a_run_waits_for_stays(deployments: tuple[UUID, UUID], tmp_path: Path) -> None:
    from flows.upkeep import upkeep
    from pipeline.naming import survey_dir
    from pipeline.sums import write_sums
    from pipeline.versions import point_latest, write_record

    folder = survey_dir(tmp_path, "tiny")
    for name in ("v1", "v2", "v3"):
        small_dataset(folder / name)
        write_sums(folder / name, {})
        write_record(folder, name, None, {})
        point_latest(folder, name)
    run_of(deployments[0], 0, "PENDING", tags=("dataset:tiny-v1",))
    would = upkeep(root=tmp_path, keep_versions=1, run_days=DAYS, dry_run=True)
    done = upkeep(root=tmp_path, keep_versions=1, run_days=DAYS)
    assert done.versions == would.versions == ("tiny-v2",)
    assert done.freed_bytes == would.freed_bytes > 0
    assert sorted(path.name for path in folder.glob("v*")) == ["v1", "v3"]
