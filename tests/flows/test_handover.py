"""What follows a dataset begins once per version, whoever says so and however often."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.sequences import Sequence
from tests.pipeline.small import small_dataset

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def deployment() -> str:
    """A deployment that no worker takes up: what counts is which runs there are."""
    from prefect import flow
    from prefect.client.orchestration import get_client

    @flow(name="follows")
    def follows(dataset: str, run: str | None = None, upstream: str | None = None) -> None: ...

    with get_client(sync_client=True) as client:
        client.create_deployment(flow_id=client.create_flow(follows), name="follows")
    return "follows/follows"


def runs_of(deployment: str) -> list[Any]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[deployment.split("/")[0]])))


def starting(deployment: str, *given: dict[str, Any]) -> None:
    """`start_next` inside a flow, as every caller is; for each of `given`."""
    from prefect import flow

    from flows.handover import start_next

    @flow(name="finished")
    def finished() -> None:
        for one in given:
            start_next(deployment, **one)

    finished()


def test_a_version_is_handed_over_once_and_the_next_one_again(deployment: str, tmp_path: Path) -> None:
    first, second = small_dataset(tmp_path / "first"), small_dataset(tmp_path / "second", change=brighter)
    of_first = {"dataset": first, "upstream": "the-build"}
    starting(deployment, of_first, of_first)
    starting(deployment, of_first)
    (run,) = runs_of(deployment)
    assert run.parameters == {"dataset": str(first.path.resolve()), "upstream": "the-build"}
    assert f"dataset:{first.info.dataset_id}" in run.tags
    # A new version; a refresh that has gone back to the one before; another step of that.
    starting(deployment, {"dataset": second}, of_first, {"dataset": first, "run": tmp_path / "runs" / "light"})
    assert len(runs_of(deployment)) == 3
    starting("", of_first)
    assert len(runs_of(deployment)) == 3


def test_an_event_leads_to_the_same_call(deployment: str, tmp_path: Path) -> None:
    """`hand-over` takes what events carry, all of it text, and starts nothing that has been started."""
    from flows.handover import hand_over

    dataset = small_dataset(tmp_path / "third", change=lambda sequence: brighter(brighter(sequence)))
    before = len(runs_of(deployment))
    starting(deployment, {"dataset": dataset, "upstream": "the-build"})
    hand_over(deployment=deployment, dataset=str(dataset.path), upstream="the-build")
    assert len(runs_of(deployment)) == before + 1
    hand_over(deployment="", dataset=str(dataset.path), upstream="")
    assert len(runs_of(deployment)) == before + 1


def test_a_deployment_that_is_not_there_is_named_before_the_work_begins() -> None:
    from flows.handover import HandOverError, check_next

    check_next(None)
    for name in ("train-model/train-modell", "train-model"):
        with pytest.raises(HandOverError, match=rf"'{name}'.*prefect deploy --all"):
            check_next(name)


def brighter(sequence: Sequence) -> Sequence:
    return replace(sequence, image=sequence.image + 1)
