"""Where cells are built: processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flows.crews.workers import worker_pool
from pipeline.archive import Archive
from pipeline.cellrecord import CellResult
from pipeline.cells import CellProgress, build_cell
from pipeline.costs import CELLS_AT_ONCE
from pipeline.errors import WorkerDied
from pipeline.plan import Cell
from pipeline.prefetch import fetch_cell
from pipeline.survey import SurveyConfig

Tell = Callable[[CellProgress], None]


@dataclass(frozen=True, slots=True)
class CellWork:
    """What is the same for every cell of a build. Plain values: it can be sent to another machine."""

    survey: SurveyConfig
    root: Path
    """Where the cache is, on a machine that has no other."""
    building: Path
    """Where the dataset grows; all that build cells must see it under this name."""
    standards_sha256: str
    retry_missing: bool
    seconds: float
    """Longest that a cell may be fetched, where that is a step of its own, and longest that it may be built."""
    connections: int
    """To an archive, that whoever fetches a cell may have."""


class Crew(Protocol):
    """Who fetches and builds cells. Called by several threads at once."""

    @property
    def room(self) -> int:
        """How many cells it works at, at once. May change while it works."""

    def fetch(self, cell: Cell) -> str | None:
        """Have the files of a cell near those who will cut it; says where, for `build`.

        Raises
        ------
        ArchiveError
            A server did not answer after all retries.
        WorkerDied
            Who fetched is gone.
        """

    def build(self, cell: Cell, near: str | None) -> CellResult:
        """Build a cell, as `build_cell` does, and raise what it raises."""


class LocalCrew:
    """Decoding processes of this machine; a cell is fetched while another is cut."""

    def __init__(self, work: CellWork, archive: Archive, executor: Executor, workers: int, tell: Tell) -> None:
        self._work = work
        self._archive = archive
        self._executor = executor
        self._workers = workers
        self._tell = tell

    @property
    def room(self) -> int:
        """As the protocol says."""
        return CELLS_AT_ONCE

    def fetch(self, cell: Cell) -> str | None:
        """As the protocol says."""
        work = self._work
        fetch_cell(
            cell, work.survey, self._archive, work.building,
            standards_sha256=work.standards_sha256, connections=work.connections,
            seconds=work.seconds, progress=self._tell,
        )  # fmt: skip
        return None

    def build(self, cell: Cell, near: str | None) -> CellResult:  # noqa: ARG002  (there is but one place)
        """As the protocol says. What killed a process of all is found out by giving each cell one of its own."""
        try:
            return self._build(cell, self._executor, self._workers)
        except WorkerDied:
            with worker_pool(1) as alone:
                return self._build(cell, alone, 1)

    def _build(self, cell: Cell, executor: Executor, workers: int) -> CellResult:
        work = self._work
        return build_cell(
            cell, work.survey, self._archive, executor, work.building,
            workers=workers, seconds=work.seconds, progress=self._tell,
        )  # fmt: skip


@contextmanager
def crew_for(work: CellWork, archive: Archive, *, dask: str | None, workers: int, tell: Tell) -> Iterator[Crew]:
    """Processes of this machine, or, where the address of a scheduler is given, the workers of that Dask cluster.

    Raises
    ------
    ClusterError
        The cluster does not answer, or cannot be used.
    """
    if not dask:
        with worker_pool(workers) as executor:
            yield LocalCrew(work, archive, executor, workers, tell)
        return
    from flows.crews.cluster import DaskCrew  # a machine that needs no cluster needs no Dask

    with DaskCrew(dask, work, tell) as crew:
        yield crew
