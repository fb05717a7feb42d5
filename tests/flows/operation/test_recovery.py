"""Runs that were killed are scheduled again; those that ended, or die each time, are not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

pytestmark = pytest.mark.usefixtures("prefect_server")
KILLED = "Process exited with status code: -9. Process exited due to a SIGKILL signal."
SOON = timedelta(seconds=30)


@pytest.fixture(scope="module")
def deployment(prefect_server: None) -> UUID:
    from prefect import flow
    from prefect.client.orchestration import get_client

    @flow(name="lost")
    def lost() -> None: ...

    with get_client(sync_client=True) as client:
        return client.create_deployment(flow_id=client.create_flow(lost), name="lost")


def run_through(deployment: UUID, *states: tuple[str, str]) -> UUID:
    """A run that has gone through these states, types and messages, as a worker reports them."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment).id
    go_through(run, *states)
    return run


def go_through(run: UUID, *states: tuple[str, str]) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import State, StateType

    with get_client(sync_client=True) as client:
        for kind, message in states:
            client.set_flow_run_state(run, State[Any](type=StateType(kind), message=message))


def taken_up(run: UUID, after: timedelta = SOON) -> bool:
    """Whether a watcher takes up the run, so long from now. Other tests' runs are on the server as well."""
    from prefect.client.orchestration import get_client

    from flows.operation.recovery import take_up_lost

    with get_client(sync_client=True) as client:
        return run in {one.id for one, _ in take_up_lost(client, datetime.now(UTC) + after)}


def state_of(run: UUID) -> str:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return str(client.read_flow_run(run).state_name)


BEGUN = (("PENDING", ""), ("RUNNING", ""))


def test_a_killed_run_is_taken_up_until_it_was_attempted_thrice(deployment: UUID) -> None:
    run = run_through(deployment, *BEGUN, ("CRASHED", KILLED), ("CRASHED", "Flow run infrastructure exited"))
    assert not taken_up(run, timedelta(0))  # the worker may have more to say
    assert taken_up(run)
    assert state_of(run) == "AwaitingRetry"
    assert not taken_up(run)
    go_through(run, *BEGUN, ("CRASHED", "its heartbeat stopped for 300 s"))
    assert taken_up(run)
    go_through(run, *BEGUN, ("CRASHED", KILLED))
    assert not taken_up(run)
    assert state_of(run) == "Crashed"


def test_a_process_that_dies_before_it_begins_is_not_tried_for_ever(deployment: UUID) -> None:
    run = run_through(deployment, ("PENDING", ""), ("CRASHED", KILLED))
    for _ in range(2):
        assert taken_up(run)
        go_through(run, ("PENDING", ""), ("CRASHED", KILLED))
    assert not taken_up(run)


def test_a_run_whose_worker_died_while_starting_it_is_taken_up(deployment: UUID) -> None:
    run = run_through(deployment, ("PENDING", ""))
    assert not taken_up(run)
    assert taken_up(run, timedelta(hours=1))


@pytest.mark.parametrize(
    "end",
    [("CRASHED", "Process exited with status code: 1."), ("FAILED", KILLED), ("COMPLETED", ""), ("CANCELLED", "")],
)
def test_what_ended_otherwise_stays_as_it_is(deployment: UUID, end: tuple[str, str]) -> None:
    run = run_through(deployment, *BEGUN, end)
    assert not taken_up(run)
    assert state_of(run) == end[0].capitalize()


def test_what_has_ended_cannot_be_marked_as_crashed_any_more(deployment: UUID) -> None:
    """On this the automation rests, whose events may be late."""
    run = run_through(deployment, *BEGUN, ("COMPLETED", ""), ("CRASHED", "its heartbeat stopped"))
    assert state_of(run) == "Completed"


def test_a_server_that_is_away_is_complained_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.operation import recovery

    said: list[str] = []
    watcher = recovery.Watcher(said.append)

    def away(**_: Any) -> None:
        raise httpx.ConnectError("refused\nand more")

    for complaints in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(recovery, "get_client", away)
            watcher.look()
            watcher.look()
        assert said == ["the server does not answer, lost runs wait: refused"] * complaints
        watcher.look()
