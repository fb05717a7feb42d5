"""How things stand, for people without a browser: the server, its workers and runs, the datasets and the models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
    WorkerFilter,
    WorkerFilterStatus,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType, WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import DeploymentSort, FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import BaseModel, ConfigDict

from flows.operation.serving import server_version
from flows.operation.setup import POOLS, automations_of, reaching, server_url
from model.rundir import EVALUATION_FILE
from pipeline.errors import ConfigError, PipelineError
from pipeline.naming import RUN_CONFIG_FILE, runs_dir
from pipeline.upkeep import surveys
from pipeline.versions import newest, versions

DEFAULT_URL: Final = "http://127.0.0.1:4200/api"
"""Where `s82 server start` puts its server: asked where PREFECT_API_URL names none."""
MOST: Final = 200
FEW: Final = 20
LOOK_BACK_DAYS: Final = 7
SHOWN_MODELS: Final = 10
SCORES: Final = ("balanced_accuracy", "macro_f1", "accuracy")
MESSAGE: Final = 300
"""Characters of a run's message that are shown."""


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True)


class Trouble(_Facts):
    """Something that needs a person."""

    what: str
    do: str


class Pool(_Facts):
    """A work pool."""

    name: str
    paused: bool
    workers: tuple[str, ...]
    """Those that are online."""
    late: int
    """Runs that were due and that no worker has taken up."""


class Run(_Facts):
    """A run of Prefect."""

    id: str
    name: str
    state: str
    at: datetime | None
    """When it began; of one that has not, when it is due."""
    seconds: float
    message: str


class Deployed(_Facts):
    """A deployment, with its last run and its next."""

    name: str
    paused: bool
    running: int
    last: Run | None
    next: datetime | None
    unresolved: tuple[Run, ...] = ()
    """Of the last days, runs that did not succeed, and that no later one with the same parameters has made good."""


class Survey(_Facts):
    """The dataset of a survey."""

    name: str
    versions: int
    latest: str | None
    published_at: datetime | None
    objects: int | None
    images: int | None
    problem: str


class Model(_Facts):
    """A training run, with its scores if it was evaluated."""

    run: str
    dataset: str
    at: datetime
    scores: dict[str, float]


class Status(_Facts):
    """All of it."""

    server: str
    version: str | None
    """Of the server; None: it does not answer."""
    pools: tuple[Pool, ...] = ()
    deployments: tuple[Deployed, ...] = ()
    limits: dict[str, tuple[int, int]] = {}
    """Per global limit: slots in use, slots."""
    automations: dict[str, bool] = {}
    """Whether each is on."""
    surveys: tuple[Survey, ...] = ()
    models: tuple[Model, ...] = ()
    troubles: tuple[Trouble, ...] = ()


def look(root: Path) -> Status:
    """Ask the server that PREFECT_API_URL names, and look below `root`."""
    url = _url()
    found = Status(
        server=url,
        version=server_version(url),
        surveys=tuple(map(_survey, surveys(root))),
        models=tuple(_models(root)),
    )
    if found.version is not None:
        with reaching(url), temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
            found = _asked(found, client)
    return found.model_copy(update={"troubles": tuple(_troubles(found))})


def _asked(status: Status, client: SyncPrefectClient) -> Status:
    """With what the server says."""
    limits = client.read_global_concurrency_limits(limit=MOST)  # with a colon: Prefect's own, of deployments
    return Status(
        server=status.server,
        version=status.version,
        pools=tuple(_pools(client)),
        deployments=tuple(_deployed(client, one) for one in _deployments(client)),
        limits={one.name: (one.active_slots, one.limit) for one in limits if ":" not in one.name},
        automations={one.name: one.enabled for one in automations_of(client)},
        surveys=status.surveys,
        models=status.models,
    )


def _deployments(client: SyncPrefectClient) -> list[DeploymentResponse]:
    return client.read_deployments(limit=MOST, sort=DeploymentSort.NAME_ASC)


def _url() -> str:
    try:
        return server_url()
    except ConfigError:
        return DEFAULT_URL


def _pools(client: SyncPrefectClient) -> Iterable[Pool]:
    online = WorkerFilter(status=WorkerFilterStatus(any_=[WorkerStatus.ONLINE]))
    late = client.read_flow_runs(flow_run_filter=_named("Late"), limit=MOST)
    for pool in client.read_work_pools(limit=MOST):
        workers = client.read_workers_for_work_pool(pool.name, worker_filter=online, limit=MOST)
        yield Pool(
            name=pool.name,
            paused=bool(pool.is_paused),
            workers=tuple(sorted(worker.name for worker in workers)),
            late=sum(run.work_pool_name == pool.name for run in late),
        )


def _deployed(client: SyncPrefectClient, deployment: DeploymentResponse) -> Deployed:
    ours = FlowRunFilterDeploymentId(any_=[deployment.id])

    def runs(state: FlowRunFilterStateType, sort: FlowRunSort, limit: int = 1) -> list[FlowRun]:
        which = FlowRunFilter(deployment_id=ours, state=FlowRunFilterState(type=state))
        return client.read_flow_runs(flow_run_filter=which, sort=sort, limit=limit)

    waiting = FlowRunFilterStateType(any_=[StateType.SCHEDULED])
    running = runs(FlowRunFilterStateType(any_=[StateType.RUNNING]), FlowRunSort.ID_DESC, MOST)
    begun = FlowRunFilterStateType(not_any_=[StateType.SCHEDULED])
    ended = FlowRunFilterStateType(any_=[*TERMINAL_STATES])
    # The one that ended last, which need not have been due last.
    last = running or runs(ended, FlowRunSort.END_TIME_DESC) or runs(begun, FlowRunSort.EXPECTED_START_TIME_DESC)
    coming = runs(waiting, FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC)
    return Deployed(
        name=deployment.name,
        paused=bool(deployment.paused),
        running=len(running),
        last=_run(last[0]) if last else None,
        unresolved=_unresolved(
            runs(FlowRunFilterStateType(any_=[StateType.FAILED, StateType.CRASHED]), FlowRunSort.END_TIME_DESC, FEW),
            runs(FlowRunFilterStateType(any_=[StateType.COMPLETED]), FlowRunSort.END_TIME_DESC, MOST),
        ),
        next=coming[0].next_scheduled_start_time if coming else None,
    )


def _unresolved(bad: Sequence[FlowRun], good: Sequence[FlowRun]) -> tuple[Run, ...]:
    since = datetime.now(UTC) - timedelta(days=LOOK_BACK_DAYS)
    return tuple(_run(run) for run in bad if _ended_at(run) > since and not any(_makes_good(one, run) for one in good))


def _makes_good(later: FlowRun, run: FlowRun) -> bool:
    """Whether a run has done what another has not; what it was started by makes no difference."""
    asked, done = ({key: value for key, value in one.parameters.items() if key != "upstream"} for one in (run, later))
    return asked == done and _ended_at(later) > _ended_at(run)


def _ended_at(run: FlowRun) -> datetime:
    return run.end_time or datetime.min.replace(tzinfo=UTC)


def _named(*names: str) -> FlowRunFilter:
    return FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=list(names))))


def _run(run: FlowRun) -> Run:
    message = (run.state.message if run.state else None) or ""
    return Run(
        id=str(run.id),
        name=run.name,
        state=str(run.state_name),
        at=run.start_time or run.expected_start_time,
        seconds=round(run.estimated_run_time.total_seconds(), 1),
        message=" ".join(message.split())[:MESSAGE],
    )


def _survey(folder: Path) -> Survey:
    try:
        found = versions(folder)
    except PipelineError as error:
        return Survey(
            name=folder.name, versions=0, latest=None, published_at=None, objects=None, images=None, problem=str(error)
        )
    best = newest(found)
    counts = best.info.counts if best and best.info else {}
    return Survey(
        name=folder.name,
        versions=len(found),
        latest=best.name if best else None,
        published_at=best.record.published_at if best and best.record else None,
        objects=counts.get("objects"),
        images=counts.get("images"),
        problem=best.problem if best else "",
    )


def _models(root: Path) -> Iterable[Model]:
    """The newest training runs; a file that cannot be read is one without a score: `s82 evaluate` will say more."""
    files = [file for file in runs_dir(root).glob(f"*/{RUN_CONFIG_FILE}") if file.is_file()]
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[:SHOWN_MODELS]:
        content = _json(file)
        yield Model(
            run=file.parent.name,
            dataset=str(content.get("dataset_id", "")),
            at=datetime.fromtimestamp(file.stat().st_mtime, UTC),
            scores=_scores(_json(file.parent / EVALUATION_FILE)),
        )


def _scores(evaluation: dict[str, Any]) -> dict[str, float]:
    values = {name: score.get("value") for name in SCORES if isinstance(score := evaluation.get(name), dict)}
    return {name: round(value, 4) for name, value in values.items() if isinstance(value, float | int)}


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _troubles(status: Status) -> Iterable[Trouble]:
    """What needs a person, the worst first."""
    if status.version is None:
        yield Trouble(
            what=f"no Prefect server answers at {status.server}",
            do="start it (`make server`), or set PREFECT_API_URL, and PREFECT_API_AUTH_STRING where it asks for one",
        )
        return
    yield from _of_pools(status.pools)
    for deployed in status.deployments:
        yield from _of_deployment(deployed)
    for name, on in status.automations.items():
        if not on:
            yield Trouble(what=f"the automation {name!r} is switched off", do="switch it on in the UI, if that is over")
    for survey in status.surveys:
        if survey.problem:
            yield Trouble(
                what=f"the dataset of {survey.name}: {survey.problem}",
                do="`s82 dataset verify` says what of it is wrong",
            )


def _of_pools(pools: Sequence[Pool]) -> Iterable[Trouble]:
    if missing := sorted(set(POOLS) - {pool.name for pool in pools}):
        yield Trouble(what=f"the server has no work pool {' and '.join(missing)}", do="`s82 server setup` makes them")
    for pool in pools:
        if pool.paused:
            yield Trouble(
                what=f"the work pool {pool.name} is paused",
                do=f"`prefect work-pool resume {pool.name}` when that is over",
            )
        elif pool.late and not pool.workers:
            yield Trouble(
                what=f"nobody works for the work pool {pool.name}, and runs of it are late: {pool.late}",
                do=f"start one: `make server`, or `prefect worker start --pool {pool.name}` on another machine",
            )


def _of_deployment(deployed: Deployed) -> Iterable[Trouble]:
    for run in deployed.unresolved:
        yield Trouble(
            what=f"the run {run.name} of {deployed.name} {_ended(run)}",
            do=f"`prefect flow-run logs {run.id}` says more; `prefect flow-run retry {run.id}` goes on where it was, "
            f"with the same parameters; `prefect flow-run delete {run.id}` has it forgotten",
        )


def _ended(run: Run) -> str:
    verb = {"TimedOut": "took too long"}.get(run.state, run.state.lower())
    return f"{verb}: {run.message}" if run.message else verb
