"""Connections to the archives, which all workers of a Prefect server share.

The archives are public machines that ask for few connections. Within a process `pipeline.hosts` sees to that; across
processes and machines it is the server's global concurrency limit, which `s82 server setup` makes. A server without
it, such as the embedded one, limits nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import httpx
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from pipeline.survey import SurveyConfig

ARCHIVE_LIMIT: Final = "sdss-archive"
LEASE_S: Final = 60.0
"""Slots of a process that was killed are free again after this."""
LOOK_S: Final = 120.0
"""Between two looks, while a cell waits for its turn, at whether it still needs one. Each leaves a line of Prefect's
own in the log, so not too often."""
AGAIN_S: Final = 2.0
AWAY_S: Final = 1800.0
"""Longest absence of the server that a cell waits for before it fails."""


@dataclass(frozen=True, slots=True)
class Slots:
    """How many connections a cell occupies while it is fetched, and whether they are the server's to give."""

    connections: int
    shared: bool

    @contextmanager
    def turn(self, go_on: Callable[[], None]) -> Iterator[None]:
        """Wait for as many connections as a cell needs, and hold them.

        A server that is being restarted is waited for. If it goes away meanwhile, what was begun goes on, and its lease
        runs out by itself: an archive is not harmed by four connections more.

        Parameters
        ----------
        go_on
            Called now and then while it waits; raises where nobody needs the turn any more.
        """
        held = self._acquired(go_on)
        try:
            go_on()
            yield
        finally:
            with suppress(httpx.HTTPError, ConcurrencySlotAcquisitionError):
                held.close()

    def _acquired(self, go_on: Callable[[], None]) -> ExitStack:
        away_until = time.monotonic() + AWAY_S
        while True:
            go_on()
            held = ExitStack()
            try:
                held.enter_context(
                    concurrency(
                        ARCHIVE_LIMIT,
                        occupy=self.connections,
                        timeout_seconds=LOOK_S,
                        lease_duration=LEASE_S,
                        raise_on_lease_renewal_failure=False,
                    )
                )
                return held
            except TimeoutError:  # others have them
                away_until = time.monotonic() + AWAY_S
            except (ConcurrencySlotAcquisitionError, httpx.HTTPError) as error:
                if not _is_away(error) or time.monotonic() > away_until:
                    raise
                time.sleep(AGAIN_S)


def _is_away(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, means that the server does not answer now."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, httpx.TransportError) or (error is not None and _is_away(error.__cause__))


def slots_for(survey: SurveyConfig) -> Slots:
    """What a cell of this survey occupies: what the survey allows itself, and no more than there are."""
    wanted = max(archive.max_connections for archive in survey.archives)
    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(ARCHIVE_LIMIT)
        except ObjectNotFound:
            return Slots(wanted, shared=False)
    return Slots(min(wanted, limit.limit), shared=True) if limit.active and limit.limit else Slots(wanted, shared=False)
