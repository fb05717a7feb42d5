"""Connections to the archives, which all workers of a Prefect server share.

The archives are public machines that ask for few connections. Within a process `pipeline.hosts` sees to that; across
processes and machines it is the server's global concurrency limit, which `s82 server setup` makes. A server without
it, such as the embedded one, limits nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import httpx
import stamina
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from pipeline.survey import SurveyConfig

ARCHIVE_LIMIT: Final = "sdss-archive"
LEASE_S: Final = 60.0
"""Slots of a process that was killed are free again after this."""
AWAY_S: Final = 1800.0
"""Longest absence of the server that a cell waits for before it fails."""


@dataclass(frozen=True, slots=True)
class Slots:
    """How many connections a cell occupies while it is fetched, and whether they are the server's to give."""

    connections: int
    shared: bool

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for as many connections as a cell needs, and hold them.

        A server that is being restarted is waited for. If it goes away meanwhile, what was begun goes on: an archive is
        not harmed by four connections more.
        """
        with ExitStack() as held:
            for attempt in stamina.retry_context(
                on=httpx.TransportError, attempts=None, timeout=AWAY_S, wait_initial=1, wait_max=30
            ):
                with attempt:
                    held.enter_context(
                        concurrency(
                            ARCHIVE_LIMIT,
                            occupy=self.connections,
                            lease_duration=LEASE_S,
                            raise_on_lease_renewal_failure=False,
                        )
                    )
            yield


def slots_for(survey: SurveyConfig) -> Slots:
    """What a cell of this survey occupies: what the survey allows itself, and no more than there are."""
    wanted = max(archive.max_connections for archive in survey.archives)
    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(ARCHIVE_LIMIT)
        except ObjectNotFound:
            return Slots(wanted, shared=False)
    return Slots(min(wanted, limit.limit), shared=True) if limit.active and limit.limit else Slots(wanted, shared=False)
