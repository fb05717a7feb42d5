"""Fixtures of tests that share one Prefect server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest


@pytest.fixture
def bare_server(prefect_server: None) -> Iterator[None]:
    """Afterwards the server is again without what `set_up` makes: other tests count on that."""
    from prefect.blocks.webhook import Webhook
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    from flows.crews.slots import ARCHIVE_LIMIT
    from flows.operation.setup import POOLS, WEBHOOK, automations_of

    yield
    with get_client(sync_client=True) as client:
        for one in automations_of(client):
            client.delete_automation(one.id)
        for pool in POOLS:
            with suppress(ObjectNotFound):
                client.delete_work_pool(pool)
        with suppress(ObjectNotFound):
            client.delete_global_concurrency_limit_by_name(ARCHIVE_LIMIT)
    with suppress(ValueError):
        Webhook.delete(WEBHOOK)
