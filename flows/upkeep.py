"""The flow `upkeep`: clear away what is old, so that disks and the server's database stay as large as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt

from flows.artifacts import DATASET_TAG, show_rows, tag_dataset
from flows.forms import described
from flows.steps import step
from pipeline.errors import ConfigError
from pipeline.runs import datasets_of_runs
from pipeline.upkeep import Cleared, clear_cache, clear_logs, clear_reports, clear_versions
from pipeline.versions import Collected

PAGE: Final = 200
"""Runs that are asked for at once: what the server gives at most."""


class Upkeep(BaseModel):
    """What was cleared away, or would be."""

    model_config = ConfigDict(frozen=True)

    dry_run: bool
    versions: tuple[str, ...]
    """Dataset ids."""
    runs: int
    """Of Prefect, with their logs and artifacts."""
    files: dict[str, int]
    """Downloads, logs and reports."""
    freed_bytes: int


@flow(name="upkeep")
@described()
def upkeep(
    root: Path = Path("work"),
    keep_versions: PositiveInt = 5,
    run_days: NonNegativeFloat = 60,
    log_days: NonNegativeFloat = 60,
    cache_gb: NonNegativeFloat | None = None,
    dry_run: bool = False,
) -> Upkeep:
    """Clear away old dataset versions, old runs of Prefect, old logs, downloads over their bound, and their leftovers.

    What stays: the newest versions, those that a training run rests on or is about to, the newest run of every
    deployment and its newest that completed, and the runs that were handed a version which is still there: they are
    what keeps it from being trained on twice.

    Parameters
    ----------
    root
        Where datasets, training runs, downloads, logs and reports live.
    keep_versions
        How many of the newest versions of each survey stay.
    run_days
        Finished runs of Prefect go after so many days, with their logs and artifacts.
    log_days
        Files of structured logs go after so many days.
    cache_gb
        The least recently used downloads go beyond so many GB; empty: no bound.
    dry_run
        Only say what would go.
    """
    if not root.is_dir():
        raise ConfigError(f"there is no folder {root}: name the one with datasets, runs and cache")
    with get_client(sync_client=True) as client:
        waiting = {tag.removeprefix(DATASET_TAG) for tag in _tags_of_unfinished(client)}
    collected = step("versions")(clear_versions)(
        root, keep_versions, protected=datasets_of_runs(root) | waiting, dry_run=dry_run
    )
    reports = step("reports")(clear_reports)(root, dry_run=dry_run)
    runs = step("runs")(clear_runs)(run_days, kept_versions=_kept(collected), dry_run=dry_run)
    logs = step("logs")(clear_logs)(root, log_days, dry_run=dry_run)
    downloads = step("downloads")(clear_cache)(root, cache_gb, dry_run=dry_run)
    files = {"downloads": downloads, "log files": logs, "reports of versions that are gone": reports}
    done = Upkeep(
        dry_run=dry_run,
        versions=tuple(f"{survey}-{name}" for survey, one in collected.items() for name in one.removed),
        runs=runs,
        files={name: one.things for name, one in files.items()}
        | {"broken-off builds": sum(len(one.builds_removed) for one in collected.values())},
        freed_bytes=sum(one.freed_bytes for one in collected.values()) + sum(one.n_bytes for one in files.values()),
    )
    _show(done, collected, files)
    return done


def clear_runs(days: float, *, kept_versions: frozenset[str], dry_run: bool) -> int:
    """Remove finished runs that ended so many days ago, with their logs and artifacts; how many.

    Parameters
    ----------
    kept_versions
        Dataset ids; runs that were handed one of these stay.
    """
    with get_client(sync_client=True) as client:
        kept, tags = _newest_of_deployments(client), set(map(tag_dataset, kept_versions))
        old = [
            run.id
            for run in _finished_before(client, datetime.now(UTC) - timedelta(days=days))
            if run.id not in kept and tags.isdisjoint(run.tags)
        ]
        for run_id in [] if dry_run else old:
            _remove(client, run_id)
    return len(old)


def _kept(collected: dict[str, Collected]) -> frozenset[str]:
    return frozenset(f"{survey}-{name}" for survey, one in collected.items() for name in one.kept)


def _tags_of_unfinished(client: SyncPrefectClient) -> Iterator[str]:
    unfinished = FlowRunFilterState(type=FlowRunFilterStateType(not_any_=list(TERMINAL_STATES)))
    for run in _runs(client, FlowRunFilter(state=unfinished)):
        yield from run.tags


def _finished_before(client: SyncPrefectClient, when: datetime) -> list[FlowRun]:
    finished = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TERMINAL_STATES)))
    return list(_runs(client, FlowRunFilter(state=finished, end_time=FlowRunFilterEndTime(before_=cast(Any, when)))))


def _runs(client: SyncPrefectClient, which: FlowRunFilter) -> Iterator[FlowRun]:
    """All runs that a filter lets pass, in an order that does not change while they are read."""
    offset = 0
    while page := client.read_flow_runs(flow_run_filter=which, sort=FlowRunSort.ID_DESC, limit=PAGE, offset=offset):
        yield from page
        offset += len(page)


def _newest_of_deployments(client: SyncPrefectClient) -> set[UUID]:
    """The newest run that each deployment has begun, and its newest that completed."""
    found: set[UUID] = set()
    offset = 0
    while page := client.read_deployments(limit=PAGE, offset=offset):
        offset += len(page)
        for deployment in page:
            for states in (list(TERMINAL_STATES), [StateType.COMPLETED]):
                which = FlowRunFilter(
                    deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]),
                    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)),
                )
                newest = client.read_flow_runs(flow_run_filter=which, sort=FlowRunSort.END_TIME_DESC, limit=1)
                found |= {run.id for run in newest}
    return found


def _remove(client: SyncPrefectClient, run_id: UUID) -> None:
    """Artifacts first: without their run, nobody would find them. The server removes the logs with the run."""
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    while page := client.read_artifacts(artifact_filter=of_run, limit=PAGE):
        for artifact in page:
            _unless_gone(client.delete_artifact, artifact.id)
    _unless_gone(client.delete_flow_run, run_id)


def _unless_gone(delete: Callable[[UUID], object], thing: UUID) -> None:
    """Somebody may have removed it in the pages meanwhile."""
    try:
        delete(thing)
    except ObjectNotFound:
        get_run_logger().info("%s was gone already", thing)


def _show(done: Upkeep, collected: dict[str, Collected], files: dict[str, Cleared]) -> None:
    rows: list[dict[str, object]] = [
        {"what": f"versions of {survey}", "things": len(one.removed), "MB": round(one.freed_bytes / 1e6, 1)}
        for survey, one in collected.items()
    ]
    rows += [{"what": "runs of Prefect", "things": done.runs, "MB": None}]
    rows += [{"what": name, "things": one.things, "MB": round(one.n_bytes / 1e6, 1)} for name, one in files.items()]
    said = "Would be cleared away" if done.dry_run else "Cleared away"
    show_rows("upkeep", rows, f"{said}: {done.freed_bytes / 1e6:,.1f} MB")
    get_run_logger().info("%s: %s", said.lower(), {row["what"]: row["things"] for row in rows})
