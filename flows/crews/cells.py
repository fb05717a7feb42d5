"""All cells of a build, as tasks: each fails alone, is tried again, and can be given up without the others.

What a cell has finished is said by its done-marker, which `build_cell` holds against the files; Prefect's cache of
results, which knows nothing of files, is not used. So it does not matter who was killed: whoever runs the same build
next redoes only what is not finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture

from flows.crews.crew import Crew
from flows.crews.slots import Slots
from flows.logs import about
from flows.progress import BuildProgress, GivenUp
from flows.steps import SeveralFailed, worth_retrying
from pipeline.cellrecord import CellResult
from pipeline.errors import DatasetError, PipelineError
from pipeline.plan import Cell

MOST_TASKS: Final = 300
"""Prefect's server on SQLite loses records from two thousand tasks on; a build of more cells has several to a task."""
LAST_FRAMES_S: Final = 60.0
"""How long a build that is given up waits for the cells that are at work."""


class Site:
    """What the tasks of one build share; a plain object, so that Prefect passes it on without looking inside."""

    def __init__(
        self, crew: Crew, slots: Slots, progress: BuildProgress, is_done: Callable[[Cell], bool] = lambda _: False
    ) -> None:
        self.crew = crew
        self.is_done = is_done
        """Whether a cell claims to be built already, and need not have its turn at the archive."""
        self.slots = slots
        self.progress = progress
        self.results: dict[str, CellResult] = {}
        self.errors: dict[str, Exception] = {}
        """Of cells that could not be built when they were tried; who has a result since does not count."""

    def build(self, cell: Cell) -> None:
        """Build one cell. Where connections are shared by all workers, it waits for its turn to fetch."""
        near = None
        if self.slots.shared and not self.is_done(cell):
            with self.slots.turn(self.progress.go_on):
                near = self.crew.fetch(cell)
        self.results[cell.cell_id] = self.crew.build(cell, near)
        self.progress.cell_done(cell.cell_id)


def build_all(
    cells: Sequence[Cell], site: Site, *, max_failed: float, show: Callable[[float], None]
) -> tuple[list[CellResult], dict[str, str]]:
    """Build all cells, as many at once as the crew has room for.

    Parameters
    ----------
    max_failed
        Part of the cells that may fail: when more have, no other is begun.
    show
        Called now and then with the part of the work that is done.

    Returns
    -------
    results, failed
        In the order of `cells`; and by id, why the others could not be built.

    Raises
    ------
    DatasetError
        More cells than that have failed. What is built stays, and the next run goes on from there.
    """
    each = -(-len(cells) // MOST_TASKS)
    waiting = [cells[start : start + each] for start in range(0, len(cells), each)][::-1]
    failed: dict[str, str] = {}
    running: dict[PrefectFuture[None], Sequence[Cell]] = {}
    done: SimpleQueue[PrefectFuture[None]] = SimpleQueue()
    try:
        while waiting or running:
            while waiting and len(running) < max(site.crew.room, 1):
                future = _submit(waiting[-1], site)
                running[future] = waiting.pop()
                future.add_done_callback(done.put)
            future = done.get()
            failed |= _failed(running.pop(future), site)
            show(site.progress.part)
            if len(failed) > max_failed * len(cells):
                raise DatasetError(too_many(failed, len(cells)))
    except Exception:
        _stop(running, site, done)
        raise
    finally:
        site.progress.stop()
    return [site.results[cell.cell_id] for cell in cells if cell.cell_id in site.results], failed


def _stop(running: Collection[Any], site: Site, done: SimpleQueue[Any]) -> None:
    """Let cells that are being built come to an end before what they use is closed; not for ever."""
    site.progress.stop()
    until = time.monotonic() + LAST_FRAMES_S
    with suppress(Empty):
        for _ in running:
            done.get(timeout=max(0.0, until - time.monotonic()))


def _submit(cells: Sequence[Cell], site: Site) -> PrefectFuture[None]:
    first, *others = [cell.cell_id for cell in cells]
    name = f"{first} and {len(others)} more" if others else first
    return build_cells.with_options(task_run_name=name).submit([*cells], site)


def _failed(cells: Sequence[Cell], site: Site) -> dict[str, str]:
    """Of a task that has ended for good, the cells that are not built. The server, which may be away, is not asked."""
    return {
        cell.cell_id: str(site.errors.get(cell.cell_id, "its task ended without a word; its log may say more"))
        for cell in cells
        if cell.cell_id not in site.results
    }


def too_many(failed: dict[str, str], n_cells: int) -> str:
    """What to say of a build that ends because of cells that failed."""
    cell_id, error = next(iter(failed.items()))
    return (
        f"{len(failed)} of {n_cells} cells failed, nothing was published; run again to build only what is not done "
        f"(`max_failed` says how many may fail before the others are given up). First: cell {cell_id}: {error}"
    )


@task(
    name="build-cells",
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def build_cells(cells: Sequence[Cell], site: Site) -> None:
    """Build cells one after the other; one that fails does not keep the next from being built."""
    errors: dict[str, Exception] = {}
    for cell in cells:
        if cell.cell_id in site.results:
            continue
        site.progress.go_on()
        with about(cell=cell.cell_id):
            try:
                site.build(cell)
            except GivenUp:
                raise
            except Exception as error:
                errors[cell.cell_id] = site.errors[cell.cell_id] = error
                _report(cell, error)
    if errors:
        raise SeveralFailed({f"cell {cell_id}": error for cell_id, error in errors.items()})


def _report(cell: Cell, error: Exception) -> None:
    foreseen = isinstance(error, PipelineError)
    get_run_logger().error("cell %s: %s", cell.cell_id, error, exc_info=None if foreseen else error)
