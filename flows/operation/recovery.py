"""Runs that lost their process are put back on the schedule, so that a worker goes on with them.

An automation of the server marks a run as crashed whose heartbeat has stopped (`flows.operation.automations`), and a
worker does where a process of its own dies. What follows is for a watcher to do, not for a second automation: events
reach automations late, or out of order, after a restart of the server, and an automation that schedules a run cannot
see that it has completed since. The watcher asks for the state that a run is in now. It keeps nothing to itself: it
may be stopped, started again, and run twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Final, cast

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound

from flows.operation.automations import SILENT

MOST_ATTEMPTS: Final = 3
"""Of a run that loses its process each time: it may itself be what kills it, by its memory, say."""
EVERY_S: Final = 15.0
SETTLED_S: Final = 5.0
"""A worker reports one crash twice, a second apart: what is scheduled between the two would be marked as crashed."""
STARTING_S: Final = 900.0
"""A run that has been about to start for so long never will: its worker died at that very moment."""
FORGOTTEN_S: Final = 7 * 86400.0
"""What crashed so long ago nobody waits for any more."""
KILLED: Final = (f"*{SILENT}*", "*status code -9*", "*status code: -9*", "*status code 137*", "*status code: 137*")
"""What the message of a crash says where the process was killed, or its machine died. A process that ends by itself,
because a module is missing, say, would only do so again."""
PAGE: Final = 200

Say = Callable[[str], None]


def watch(say: Say, stop: threading.Event, *, every_s: float = EVERY_S) -> None:
    """Take up lost runs of the server that PREFECT_API_URL names until `stop` is set."""
    watcher = Watcher(say)
    while not stop.wait(every_s):
        watcher.look()


class Watcher:
    """One look after the other; a server that does not answer is complained of once, and asked again."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._answers = True

    def look(self) -> None:
        """Take up what is lost now."""
        try:
            with get_client(sync_client=True) as client:
                taken = take_up_lost(client, datetime.now(UTC))
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if self._answers:
                self._say(f"the server does not answer, lost runs wait: {str(error).partition(chr(10))[0]}")
            self._answers = False
            return
        self._answers = True
        for run, why in taken:
            self._say(f"run {run.name} is scheduled again: {why}")


def take_up_lost(client: SyncPrefectClient, now: datetime) -> list[tuple[FlowRun, str]]:
    """Schedule again what was killed, each run no more often than it may be attempted; which runs, and why."""
    taken = []
    for run, why in [*_killed(client, now), *_never_started(client, now)]:
        again = State[Any](
            type=StateType.SCHEDULED, name="AwaitingRetry", message=f"{why}; what is finished stays, the rest is done"
        )
        try:
            answer = client.set_flow_run_state(run.id, again)
        except ObjectNotFound:  # removed in the pages meanwhile
            continue
        if answer.state is not None and answer.state.type is StateType.SCHEDULED:
            taken.append((run, why))
    return taken


def _killed(client: SyncPrefectClient, now: datetime) -> Iterator[tuple[FlowRun, str]]:
    ended = FlowRunFilterEndTime(after_=cast(Any, now - timedelta(seconds=FORGOTTEN_S)))
    for run in _deployed(client, StateType.CRASHED, end_time=ended):
        if _is_older(run, SETTLED_S, now) and _was_killed(run.state) and _may_be_attempted(client, run):
            yield run, SILENT if SILENT in (_message(run.state)) else "its process was killed"


def _never_started(client: SyncPrefectClient, now: datetime) -> Iterator[tuple[FlowRun, str]]:
    for run in _deployed(client, StateType.PENDING):
        if _is_older(run, STARTING_S, now):
            yield run, "its worker died before it began"


def _deployed(
    client: SyncPrefectClient, state: StateType, end_time: FlowRunFilterEndTime | None = None
) -> list[FlowRun]:
    which = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(is_null_=False),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[state])),
        end_time=end_time,
    )
    return client.read_flow_runs(flow_run_filter=which, limit=PAGE)


def _is_older(run: FlowRun, seconds: float, now: datetime) -> bool:
    """Whether a run has been in its state for longer."""
    return run.state is not None and now - run.state.timestamp > timedelta(seconds=seconds)


def _was_killed(state: State[Any] | None) -> bool:
    return any(fnmatchcase(_message(state), pattern) for pattern in KILLED)


def _message(state: State[Any] | None) -> str:
    return (state.message if state else None) or ""


def _may_be_attempted(client: SyncPrefectClient, run: FlowRun) -> bool:
    """Deaths count, and what a person has started again does not: what is killed every time is not tried for ever."""
    crashes = [state for state in client.read_flow_run_states(run.id) if state.type is StateType.CRASHED]
    return len(crashes) < MOST_ATTEMPTS
