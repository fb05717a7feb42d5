"""What the server does by itself: notice runs that died, and tell somebody of those that failed or are late.

Plain descriptions; `flows.operation.setup` brings them to a server.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from prefect.automations import AutomationCore, CallWebhook, ChangeFlowRunState, EventTrigger, Posture
from prefect.client.schemas.objects import StateType

Resources = dict[str, str | list[str]]
"""Labels that the resources of an event must have."""
OWN: Final = "s82: "
"""How the names of our automations begin; those of `prefect.yaml` and of other people do not."""
HEARTBEAT: Final = "prefect.flow-run.heartbeat"
SILENT: Final = "its heartbeat stopped"
SIGNS_OF_LIFE: Final = frozenset(
    {HEARTBEAT}
    | {
        f"prefect.flow-run.{state}"
        for state in (
            "Completed", "Failed", "Crashed", "TimedOut", "Cancelling", "Cancelled", "RolledBack", "Cached",
            "Paused", "Suspended", "AwaitingRetry", "Scheduled", "Pending",
        )
    }
)  # fmt: skip
"""Another heartbeat, or any state in which none is sent."""
TAKEN_UP: Final = frozenset(
    f"prefect.flow-run.{state}" for state in ("Pending", "Running", "Cancelling", "Cancelled", "Failed")
)
DEPLOYED: Final[Resources] = {"prefect.resource.role": "deployment", "prefect.resource.id": "prefect.deployment.*"}
EVERY_RUN: Final[Resources] = {"prefect.resource.id": "prefect.flow-run.*"}

_RUN_TEXT: Final = "{{ deployment.name }} ({{ flow_run.name }})"
_WHAT_THEN: Final = "crashed; it goes on by itself, unless this was the third time"
_RUN_DATA: Final = (
    '"deployment": {{ deployment.name | tojson }}, "run": {{ flow_run.name | tojson }}, '
    '"run_id": {{ flow_run.id | string | tojson }}, "state": {{ flow_run.state.name | tojson }}, '
    '"state_message": {{ (flow_run.state.message or "") | string | truncate(2000) | tojson }}, '
    '"page": {{ flow_run | ui_url | string | tojson }}'
)


def crash_detection(silent_s: float) -> AutomationCore:
    """Mark a run as crashed whose heartbeat stopped; one that has ended since, the server leaves as it is.

    Parameters
    ----------
    silent_s
        A run from which nothing was heard for so long is taken for dead; several times the heartbeat's interval.
    """
    return AutomationCore(
        name=f"{OWN}silent run",
        description=f"A run whose heartbeat stopped for {silent_s:.0f} s is marked as crashed.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match=EVERY_RUN,
            after={HEARTBEAT},
            expect=set(SIGNS_OF_LIFE),
            for_each={"prefect.resource.id"},
            within=timedelta(seconds=silent_s),
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.CRASHED,
                force=False,
                message=f"{SILENT} for {silent_s:.0f} s: the process was killed, or its machine is gone",
            )
        ],
    )


def alerts(webhook: UUID, *, late_s: float, refresh_within_s: float) -> list[AutomationCore]:
    """Tell the address behind `webhook` of runs that failed, that nobody takes up, and of a refresh that is overdue.

    Parameters
    ----------
    webhook
        Id of a Webhook block.
    late_s
        A run that no worker has taken up for so long is late.
    refresh_within_s
        A refresh must complete so often; 0: nobody watches for that.
    """
    found = [_failed(webhook), _crashed(webhook), _waiting(webhook, late_s)]
    return [*found, _overdue(webhook, refresh_within_s)] if refresh_within_s else found


def _of_a_deployed_run(**when: Any) -> EventTrigger:
    """Each run that a deployment has, by itself; not those at a terminal, whose people are there."""
    return EventTrigger(match=EVERY_RUN, match_related=DEPLOYED, for_each={"prefect.resource.id"}, **when)


def _failed(webhook: UUID) -> AutomationCore:
    return AutomationCore(
        name=f"{OWN}tell of failed runs",
        description="A deployment's run that failed or timed out is reported.",
        trigger=_of_a_deployed_run(
            posture=Posture.Reactive,
            expect={"prefect.flow-run.Failed", "prefect.flow-run.TimedOut"},
        ),
        actions=[_call(webhook, f"{_RUN_TEXT} failed", _RUN_DATA)],
    )


def _crashed(webhook: UUID) -> AutomationCore:
    return AutomationCore(
        name=f"{OWN}tell of crashed runs",
        description="A deployment's run whose process died is reported; a worker that says so twice, once.",
        trigger=_of_a_deployed_run(
            posture=Posture.Reactive,
            expect={"prefect.flow-run.Crashed"},
            within=timedelta(seconds=10),
        ),
        actions=[_call(webhook, f"{_RUN_TEXT} {_WHAT_THEN}", _RUN_DATA)],
    )


def _waiting(webhook: UUID, late_s: float) -> AutomationCore:
    return AutomationCore(
        name=f"{OWN}tell of late runs",
        description=f"A run that no worker has taken up {late_s:.0f} s after it was due is reported.",
        trigger=_of_a_deployed_run(
            posture=Posture.Proactive,
            after={"prefect.flow-run.Late"},
            expect=set(TAKEN_UP),
            within=timedelta(seconds=late_s),
        ),
        actions=[_call(webhook, f"{_RUN_TEXT} is late: is a worker of its pool running?", _RUN_DATA)],
    )


def _overdue(webhook: UUID, within_s: float) -> AutomationCore:
    hours = within_s / 3600
    said = f"no refresh-dataset has completed for {hours:g} hours"
    return AutomationCore(
        name=f"{OWN}tell of an overdue refresh",
        description=f"Where {said}, that is reported, and again after as many.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match=EVERY_RUN,
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": "refresh-dataset"},
            expect={"prefect.flow-run.Completed"},
            within=timedelta(seconds=within_s),
        ),
        actions=[_call(webhook, f"{said}: look at its schedule and at the last run", f'"hours": {hours:g}')],
    )


def _call(webhook: UUID, text: str, data: str) -> CallWebhook:
    """Post JSON whose `text` chat services show, and further keys for machines."""
    spoken = f"{{% set said %}}Stripe 82: {text}{{% endset %}}"
    payload = f'{spoken}{{"text": {{{{ said | string | tojson }}}}, {data}}}'
    return CallWebhook(block_document_id=webhook, payload=payload)
