"""Cells on the workers of a Dask cluster: where a build goes when one machine is too small.

The cluster is the user's own: its scheduler and workers run what they are sent, as its user, and are trusted by
this flow in turn. `docs/scaling.md` says how to start one, and how to close it to others.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from distributed import Client, KilledWorker

from flows.crews import cellworker
from flows.crews.crew import CellWork, Tell
from pipeline.cellrecord import CellResult
from pipeline.cells import CellProgress
from pipeline.errors import ClusterError, WorkerDied
from pipeline.plan import Cell
from pipeline.version import software_versions

LOG: Final = logging.getLogger(__name__)
CONNECT_S: Final = 20.0
"""Longest wait for a scheduler's answer."""
NO_WORKER_S: Final = 600.0
"""Longest time without a single worker; a cluster may be slow to replace the last one."""
FETCHING: Final = 2
"""Cells that are fetched at once, where no server says how many may be."""
LOOK_S: Final = 10.0
"""Between two looks at whether anybody is left to answer."""


def room_for(threads: int) -> int:
    """Cells at work for so many threads: each has the next one fetched while it cuts.

    In the simulation of `benchmarks/scale_out.py`, two ahead of all threads together take up to a quarter longer.
    """
    return threads + max(threads, FETCHING)


class _Unplaced(Exception):
    """A task waits for one worker that is gone, though others may have it: Dask forgets that if there was none then."""


class DaskCrew:
    """Fetches and builds cells on whatever workers a scheduler has. Safe to share between threads.

    Workers may come and go. What a worker was at when it died is done by another, without the flow's help; `WorkerDied`
    is what remains: a cell that took three workers along, or a scheduler that went away.

    Parameters
    ----------
    address
        Of the scheduler: `tcp://host:8786`, or `tls://…` with certificates from Dask's configuration.
    no_worker_s
        Without a worker for so long, the build is given up.

    Raises
    ------
    ClusterError
        No scheduler answers, it has no worker, or one of them would not build the same dataset.
    """

    def __init__(
        self,
        address: str,
        work: CellWork,
        tell: Tell,
        *,
        connect_s: float = CONNECT_S,
        no_worker_s: float = NO_WORKER_S,
    ) -> None:
        self._address = address
        self._bands = len(work.survey.thumbnails.bands)
        self._tell = tell
        self._connect_s = connect_s
        self._no_worker_s = no_worker_s
        self._guard = threading.Lock()
        self._at: dict[str, str] = {}
        """The worker that has fetched each cell, or does, until it is built."""
        self._fetching = threading.BoundedSemaphore(FETCHING)
        self._seen_worker = time.monotonic()
        self._ticket = cellworker.ticket_for(work)
        self._client: Client | None = None
        try:
            self._check_in(self._connected())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def room(self) -> int:
        """A cell for each thread of the cluster, and those that are fetched meanwhile."""
        return room_for(sum(self._threads().values()))

    def fetch(self, cell: Cell) -> str | None:
        """Have the cell's files fetched by the worker with the least to do; its address.

        Raises
        ------
        ArchiveError
            A server did not answer after all retries.
        ClusterError, WorkerDied
            As for `build`.
        """
        worker = self._least_busy(cell)
        try:
            where, progress = self._run("fetch", cellworker.fetch_here, cell, worker)
        except BaseException:
            self._forget(cell)
            raise
        with self._guard:
            self._at[cell.cell_id] = where
        if progress:
            self._tell(progress)
        return str(where)

    def build(self, cell: Cell, near: str | None) -> CellResult:
        """Have the cell built by the worker that fetched it, or if it is gone by another.

        Where nobody has fetched it, few are fetched at a time: a hundred workers are not to ask an archive at once.

        Raises
        ------
        WorkerDied
            The cell took workers along, or the scheduler went away; it may be tried again.
        ClusterError
            No scheduler answers any more, or it has had no worker for long.
        PipelineError
            As `build_cell` does.
        """
        if near is None:
            with self._fetching:
                near = self.fetch(cell)
        try:
            result: CellResult = self._run("build", cellworker.build_here, cell, near)
        finally:
            self._forget(cell)
        frames = len(cell.visits) * self._bands
        self._tell(CellProgress(cell.cell_id, frames, frames, 0, sum(row["n_images"] for row in result.objects)))
        return result

    def events(self) -> list[dict[str, Any]]:
        """Which cells of this build were begun and done so far, when and by whom, as the scheduler was told."""
        return cellworker.events_of(self._ticket.token, self._connected().get_events(cellworker.TOPIC))

    def close(self) -> None:
        """Let go of the cluster; cells that are still being built there are ended."""
        with self._guard:
            client, self._client = self._client, None
        if client is not None:
            # A scheduler that is gone cannot pass it on, and its workers end with it.
            with suppress(OSError, TimeoutError, CancelledError, RuntimeError, ValueError):
                if client.status == "running":
                    client.run(cellworker.dismiss, self._ticket, on_error="ignore")
            client.close(timeout=5)
        self._ticket.place.unlink(missing_ok=True)

    def _connected(self) -> Client:
        """The client; a new one if the scheduler was away."""
        with self._guard:
            if self._client is None or self._client.status not in ("running", "connecting"):
                try:
                    self._client = Client(self._address, timeout=self._connect_s, set_as_default=False)
                except (OSError, TimeoutError, ValueError, TypeError) as error:
                    raise ClusterError(
                        f"no Dask scheduler answers at {self._address!r} ({error}): start one with `dask scheduler`, "
                        "correct the address, or leave it out to build on this machine"
                    ) from error
            return self._client

    def _check_in(self, client: Client) -> None:
        """Ask every worker that is there; those that come later are asked with each cell."""
        if not client.scheduler_info().get("workers"):
            with suppress(TimeoutError):
                client.wait_for_workers(1, timeout=self._connect_s)
        answers = client.run(cellworker.check_in, self._ticket, on_error="return")
        if not answers:
            raise ClusterError(
                f"the scheduler at {self._address} has no worker: start `dask worker {self._address}` on the machines "
                "that are to build"
            )
        here = software_versions()
        for worker, answer in sorted(answers.items()):
            if isinstance(answer, ClusterError):
                raise answer
            if isinstance(answer, BaseException):
                raise ClusterError(
                    f"the worker {worker} cannot run this software ({answer}): install the same stripe82-convention "
                    "there, with the extras cut and cluster, and restart it"
                ) from answer
            if other := {name: found for name, found in answer.items() if here.get(name, found) != found}:
                LOG.warning("worker %s has other versions than this flow: %s", worker, other)

    def _least_busy(self, cell: Cell) -> str | None:
        """Of the workers, the one with most threads for each cell that it has."""
        threads = self._threads()
        with self._guard:
            has = Counter(self._at.values())
            chosen = min(threads, key=lambda worker: (has[worker] / max(1, threads[worker]), worker), default=None)
            if chosen is not None:
                self._at[cell.cell_id] = chosen
        return chosen

    def _threads(self) -> dict[str, int]:
        """Of each worker that the scheduler has now; of none, if it does not answer, which the next call says."""
        try:
            workers = self._connected().scheduler_info().get("workers", {})
        except (ClusterError, OSError, TimeoutError, CancelledError, RuntimeError):
            return {}
        return {address: worker["nthreads"] for address, worker in workers.items()}

    def _forget(self, cell: Cell) -> None:
        with self._guard:
            self._at.pop(cell.cell_id, None)

    def _run(self, what: str, function: Callable[..., Any], cell: Cell, worker: str | None) -> Any:
        client = self._connected()
        try:
            try:
                return self._ask(client, what, function, cell, worker)
            except _Unplaced:
                return self._ask(client, what, function, cell, None)
        except KilledWorker as error:
            raise WorkerDied(f"cell {cell.cell_id} took {error.allowed_failures + 1} Dask workers along") from error
        except (CancelledError, OSError, RuntimeError) as error:
            if client.status == "running":
                raise
            raise WorkerDied(
                f"the Dask scheduler at {self._address} went away while it had to {what} cell {cell.cell_id}"
            ) from error

    def _ask(self, client: Client, what: str, function: Callable[..., Any], cell: Cell, worker: str | None) -> Any:
        key = f"{what}-{cell.cell_id}-{uuid.uuid4().hex[:8]}"
        where = {"workers": [worker], "allow_other_workers": True} if worker else {}
        future = client.submit(function, self._ticket, cell, key=key, pure=False, **where)
        while True:
            try:
                result = future.result(timeout=LOOK_S)
                self._seen_worker = time.monotonic()
                return result
            except TimeoutError:
                if future.done():
                    raise
                self._look_for_workers(client)
                if worker and not any(key in keys for keys in client.processing().values()):
                    future.cancel()
                    raise _Unplaced from None

    def _look_for_workers(self, client: Client) -> None:
        if client.status != "running":
            raise ConnectionError("the connection to the scheduler is lost")
        if client.scheduler_info().get("workers"):
            self._seen_worker = time.monotonic()
        elif time.monotonic() - self._seen_worker > self._no_worker_s:
            raise ClusterError(
                f"the scheduler at {self._address} has had no worker for {self._no_worker_s:.0f} s: start "
                f"`dask worker {self._address}`, then build again; what is done stays done"
            )
