"""What a Prefect server needs before flows are deployed to it: work pools, the archive's limit, automations.

Doing it again brings what is there up to date and doubles nothing; what a person switched off stays off.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from prefect.automations import AutomationCore
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import WorkPool
from prefect.events.schemas.automations import Automation
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import get_current_settings
from prefect.types import SecretDict
from pydantic import BaseModel, ConfigDict, SecretStr

from flows.crews.slots import ARCHIVE_LIMIT
from flows.operation.automations import OWN, alerts, crash_detection
from pipeline.errors import ConfigError

POOLS: Final = {
    "cpu": "Builds, refreshes and upkeep: everything but training.",
    "gpu": "Training, fine-tuning, evaluation and benchmarks, one at a time per worker.",
}
ARCHIVE_SLOTS: Final = 8
"""Connections to the archive that all workers of a server share."""
WEBHOOK: Final = "s82-alerts"
ALERT_URL: Final = "S82_ALERT_URL"
ALERT_URL_FILE: Final = "S82_ALERT_URL_FILE"
SILENT_S: Final = 300.0
"""Of a restart of the server shorter than this by a minute, runs need not know: their heartbeats wait and are sent."""
LATE_S: Final = 900.0
REFRESH_WITHIN_H: Final = 30.0
"""A nightly refresh has six hours to complete."""


class SetUp(BaseModel):
    """What `set_up` found and did, name by name."""

    model_config = ConfigDict(frozen=True)

    server: str
    done: dict[str, str]
    """Per thing: made, changed, as it was, removed."""
    notes: tuple[str, ...]


def set_up(
    *,
    archive_slots: int | None = None,
    silent_s: float = SILENT_S,
    late_s: float = LATE_S,
    refresh_within_h: float = REFRESH_WITHIN_H,
) -> SetUp:
    """Bring the server that PREFECT_API_URL names up to date.

    Parameters
    ----------
    archive_slots
        Connections to the archive that all workers share; not set: 8 where there is no limit yet, else as it is.
    silent_s
        A run whose heartbeat stopped for so long is taken for dead.
    late_s
        A run that no worker has taken up for so long is reported.
    refresh_within_h
        A refresh must complete so often; 0: nobody watches for that.

    Raises
    ------
    ConfigError
        No server is named, it does not answer, or the address for alerts cannot be used.
    """
    url = server_url()
    address = alert_address()
    with reaching(url), get_client(sync_client=True) as client:
        done = {f"work pool {name}": _pool(client, name, text) for name, text in POOLS.items()}
        done[f"limit {ARCHIVE_LIMIT}"] = _limit(client, archive_slots)
        wanted = [crash_detection(silent_s)]
        webhook = _webhook(address)
        notes: tuple[str, ...] = ()
        if webhook is None:
            notes = (f"nobody is told of failed and late runs: set {ALERT_URL} or {ALERT_URL_FILE} and do this again",)
        else:
            wanted += alerts(webhook, late_s=late_s, refresh_within_s=refresh_within_h * 3600)
        done |= _automations(client, wanted)
    return SetUp(server=url, done=done, notes=notes)


def server_url() -> str:
    """Address of the API of the server that is named.

    Raises
    ------
    ConfigError
        None is.
    """
    url = get_current_settings().api.url
    if not url:
        raise ConfigError(
            "no Prefect server is named: start one with `s82 server start` and set PREFECT_API_URL to the address "
            "that it prints, http://127.0.0.1:4200/api unless told otherwise"
        )
    return str(url)


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Inside, a server that does not answer, or refuses, becomes one `ConfigError`."""
    try:
        yield
    except httpx.TransportError as error:
        raise ConfigError(
            f"no Prefect server answers at {url} ({error or type(error).__name__}): is it running, and is "
            "PREFECT_API_URL its address?"
        ) from error
    except httpx.HTTPStatusError as error:
        first_line = str(error).partition("\n")[0]
        raise ConfigError(
            f"the Prefect server at {url} refused: {first_line}; is it of the same version, and is PREFECT_API_KEY "
            "or PREFECT_API_AUTH_STRING set if it asks for one?"
        ) from error


def alert_address() -> SecretStr | None:
    """Where alerts are sent: S82_ALERT_URL, or the content of the file that S82_ALERT_URL_FILE names.

    Raises
    ------
    ConfigError
        The file cannot be read, or what is named is no web address. The message does not repeat it: it is a secret.
    """
    text, where = os.environ.get(ALERT_URL, ""), ALERT_URL
    if not text and (file := os.environ.get(ALERT_URL_FILE)):
        where = f"the file that {ALERT_URL_FILE} names, {file},"
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {where} the address for alerts: {error}") from error
    text = text.strip()
    if not text:
        return None
    with suppress(ValueError):
        parts = urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and not any(map(str.isspace, text)):
            return SecretStr(text)
    raise ConfigError(f"{where} holds no web address: expected https://…, the webhook that takes alerts as JSON")


def _pool(client: SyncPrefectClient, name: str, description: str) -> str:
    try:
        client.create_work_pool(WorkPoolCreate(name=name, type="process", description=description))
    except ObjectAlreadyExists:
        there: WorkPool = client.read_work_pool(name)
        if there.type != "process":
            raise ConfigError(
                f"the server has a work pool {name} of type {there.type}, not process: delete it "
                f"(prefect work-pool delete {name}), or use another server"
            ) from None
        return "as it was"
    return "made"


def _limit(client: SyncPrefectClient, slots: int | None) -> str:
    try:
        there = client.read_global_concurrency_limit_by_name(ARCHIVE_LIMIT)
    except ObjectNotFound:
        client.upsert_global_concurrency_limit_by_name(ARCHIVE_LIMIT, slots or ARCHIVE_SLOTS)
        return "made"
    if slots is None or there.limit == slots:
        return "as it was"
    client.upsert_global_concurrency_limit_by_name(ARCHIVE_LIMIT, slots)
    return "changed"


def _webhook(address: SecretStr | None) -> UUID | None:
    """Id of the block that alerts go through: with an address, of one that has it; else of one that is there already.

    The address lies encrypted in the server's database, and no page shows it.
    """
    if address is None:
        with suppress(ValueError):
            return cast(Webhook, Webhook.load(WEBHOOK))._block_document_id
        return None
    headers = SecretDict({"Content-Type": "application/json"})
    return cast(UUID, Webhook(url=address, headers=headers).save(WEBHOOK, overwrite=True))


def _automations(client: SyncPrefectClient, wanted: Iterable[AutomationCore]) -> dict[str, str]:
    """Make, change and remove automations of ours until they are as wanted.

    One that is right already is left alone: writing it again would make its clock start anew.
    """
    there: dict[str, list[Automation]] = {}
    for one in automations_of(client):
        if not one.name.startswith(OWN):
            continue
        there.setdefault(one.name, []).append(one)
    done = {}
    for automation in wanted:
        found = there.pop(automation.name, [])
        for double in found[1:]:
            client.delete_automation(double.id)
        done[f"automation {automation.name}"] = _automation(client, automation, found[0] if found else None)
    for name, old in there.items():
        for one in old:
            client.delete_automation(one.id)
        done[f"automation {name}"] = "removed"
    return done


def _automation(client: SyncPrefectClient, wanted: AutomationCore, there: Automation | None) -> str:
    if there is None:
        client.create_automation(wanted)
        return "made"
    kept = wanted.model_copy(update={"enabled": there.enabled})
    if _content(kept) == _content(there):
        return "as it was"
    client.update_automation(there.id, AutomationCore.model_validate(kept.model_dump(exclude={"owner_resource"})))
    return "changed"


def automations_of(client: SyncPrefectClient) -> list[Automation]:
    """All automations of a server, in the order of their names."""
    found: list[Automation] = []
    while page := client.read_automations(limit=200, offset=len(found)):
        found += page
    return sorted(found, key=lambda one: one.name)


def _content(automation: AutomationCore) -> Any:
    """What of an automation is said by us, in a form that can be compared."""
    content = automation.model_dump(mode="json", include={"name", "description", "enabled", "trigger", "actions"})
    return _sorted(content)


def _sorted(value: Any) -> Any:
    """Sets come back from the server in any order, and single values as lists."""
    if isinstance(value, dict):
        return {key: _sorted(one) for key, one in value.items() if key != "id"}
    if isinstance(value, list):
        return sorted((_sorted(one) for one in value), key=str)
    return value
