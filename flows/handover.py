"""What begins when something is finished: training after a dataset, fine-tuning after training, evaluation after that.

Twice over, so that neither a lost event nor a lost process breaks the chain. The run that has finished starts the next
deployment itself; and it emits an event, on which an automation (`triggers` in prefect.yaml, to be seen and changed
there) runs `hand-over`, which makes the very same call. The call carries a key made of what is handed over, and
Prefect's server makes one run per key, whoever calls, however often: a dataset version is trained on once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, cast

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from flows.artifacts import link_run, tag_dataset
from flows.forms import described
from flows.steps import step
from pipeline.errors import PipelineError
from pipeline.manifest import Dataset, open_dataset

DATASET_PUBLISHED: Final = "s82.dataset.published"
Finished = Literal["s82.model.trained", "s82.model.fine-tuned", "s82.model.evaluated"]


class HandOverError(PipelineError):
    """What shall follow cannot be started."""


@flow(name="hand-over")
@described()
def hand_over(deployment: str, dataset: Path, run: Path | None = None, upstream: str | None = None) -> None:
    """Start the next step, unless the run that finished the one before has done so itself. Runs on an event.

    Parameters
    ----------
    deployment
        What to start, as flow/deployment; "" for nothing.
    dataset
        Directory of the dataset version that is handed over.
    run
        Directory of the training run that is handed over, after training.
    upstream
        Id of the flow run that finished the step before.
    """
    if deployment:
        start_next(deployment, open_dataset(dataset), run=run, upstream=upstream)


def say_published(dataset: Dataset, then: str | None) -> None:
    """Emit the event that a version is new."""
    _emit(DATASET_PUBLISHED, "s82.dataset", dataset.info.dataset_id, dataset, then)


def say_finished(event: Finished, dataset: Dataset, run: Path, then: str | None) -> None:
    """Emit the event that a training run has come so far."""
    _emit(event, "s82.run", run.name, dataset, then, run=str(run.resolve()))


def _emit(event: str, kind: str, name: str, dataset: Dataset, then: str | None, **more: str) -> None:
    emit_event(
        event=event,
        resource={"prefect.resource.id": f"{kind}.{name}", "prefect.resource.name": name},
        payload={
            "dataset": str(dataset.path.resolve()),
            "dataset_id": dataset.info.dataset_id,
            "then": then or "",
            "flow_run_id": flow_run.id or "",
            **more,
        },
    )


def check_next(deployment: str | None) -> None:
    """Find out before hours of work whether what shall follow can be started.

    Raises
    ------
    HandOverError
        There is no such deployment.
    """
    if not deployment:
        return
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(deployment)
        except (ObjectNotFound, ValueError) as error:
            raise HandOverError(_no_such(deployment)) from error


def start_next(
    deployment: str | None, dataset: Dataset, *, run: Path | None = None, upstream: str | None = None
) -> None:
    """Start a deployment on what is finished, if that has never been done; nothing for None or "".

    Raises
    ------
    HandOverError
        There is no such deployment.
    """
    if not deployment:
        return
    dataset_id, place = dataset.info.dataset_id, str(dataset.path.resolve())
    key = ":".join((deployment, place, dataset.info.content_hash, run.name if run else ""))
    parameters: dict[str, Any] = {"dataset": place, "upstream": upstream or flow_run.id}
    if run is not None:
        parameters["run"] = str(run.resolve())
    started = _start(deployment, key, parameters, [tag_dataset(dataset_id)])
    get_run_logger().info("%s is run %s of %s: %s", dataset_id, started.name, deployment, _standing(started))
    link_run("next-run", started.id, f"{deployment} on {dataset_id}")


def _start(deployment: str, key: str, parameters: dict[str, Any], tags: list[str]) -> FlowRun:
    """Make the call, again for some minutes if the server is just being restarted."""

    def call() -> FlowRun:
        try:
            started = run_deployment(
                deployment, parameters=parameters, timeout=0, idempotency_key=key, tags=tags, as_subflow=False
            )
        except (ObjectNotFound, ValueError) as error:
            raise HandOverError(_no_such(deployment)) from error
        return cast(FlowRun, started)  # a coroutine only for callers that are async

    return step("start-next", retries=6, delays_s=(5, 10, 20, 40, 80, 160))(call)()


def _standing(started: FlowRun) -> str:
    state = started.state
    name = str(state.name).lower() if state else "new"
    if state is None or not state.is_final() or state.is_completed():
        return name
    return (
        f"it has {name}; `prefect flow-run retry {started.id}` tries it again with the same parameters, "
        "`prefect deployment run` with this dataset starts it anew"
    )


def _no_such(deployment: str) -> str:
    return (
        f"there is no deployment {deployment!r} (flow/deployment) to go on with: `prefect deploy --all` makes those of "
        "prefect.yaml; or leave `then` empty"
    )
