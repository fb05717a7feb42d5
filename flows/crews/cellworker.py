"""What a worker of a Dask cluster does for a build; called there by `flows.crews.cluster`, and needs no Prefect.

A worker has one cell per thread, each in a process of its own (`flows.crews.cellprocess`), and one archive for all.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from distributed import get_worker, secede

from flows.crews.cellprocess import CellProcess, archive_of
from flows.crews.crew import CellWork
from pipeline.archive import Archive
from pipeline.cellrecord import CellResult
from pipeline.cells import CellProgress
from pipeline.cellstars import detection_uses
from pipeline.errors import ClusterError
from pipeline.fetching import uses
from pipeline.naming import CACHE_VARIABLE, LOCKS_FOLDER, cache_dir
from pipeline.plan import Cell
from pipeline.prefetch import fetch_cell
from pipeline.sequences import SCHEMA_VERSION
from pipeline.version import PIPELINE_VERSION, software_versions

TOPIC: Final = "s82-cells"
"""Of the events that workers tell the scheduler: which cell was begun, and done, where."""
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Software:
    """What must be the same wherever cells of one dataset are built."""

    package: str
    pipeline: int
    schema: int

    def __str__(self) -> str:
        return f"{self.package} (pipeline version {self.pipeline}, schema version {self.schema})"


@dataclass(frozen=True, slots=True)
class Ticket:
    """A build, as its workers get it."""

    work: CellWork
    software: Software
    token: str
    """Name of a file in the building dataset: who sees it sees the same folder."""
    machine: str
    """The flow's."""

    @property
    def place(self) -> Path:
        """Where the token lies."""
        return self.work.building / LOCKS_FOLDER / self.token


def ticket_for(work: CellWork) -> Ticket:
    """Lay a token into the building dataset, and write down what the flow's side is."""
    work = replace(work, root=work.root.absolute(), building=work.building.absolute())
    ticket = Ticket(work, software(), f"cluster-{uuid.uuid4().hex}", machine())
    ticket.place.parent.mkdir(parents=True, exist_ok=True)
    ticket.place.touch()
    return ticket


def software() -> Software:
    """Of this process."""
    return Software(software_versions()["stripe82-convention"], PIPELINE_VERSION, SCHEMA_VERSION)


def machine() -> str:
    """Which machine this is; the containers of one machine are told apart, as their folders may be."""
    boot = BOOT_ID.read_text().strip() if BOOT_ID.is_file() else ""
    return f"{os.uname().nodename} {boot}"


def check_in(ticket: Ticket) -> dict[str, str]:
    """Refuse what would give another dataset, or none; versions of everything that can change a result.

    Raises
    ------
    ClusterError
        This worker has other software, does not see the dataset, may not write it, or shares its cache with another
        machine.
    """
    here, work = software(), ticket.work
    if here != ticket.software:
        raise ClusterError(
            f"a worker on {_host()} has {here}, the flow has {ticket.software}: install the same there and restart it"
        )
    if not ticket.place.is_file():
        raise ClusterError(
            f"a worker on {_host()} does not see {work.building}: mount the folder {work.root} there, under that path"
        )
    if not os.access(work.building, os.W_OK | os.X_OK):
        raise ClusterError(f"a worker on {_host()} may not write to {work.building}: run it as a user who may")
    if machine() != ticket.machine and not os.environ.get(CACHE_VARIABLE):
        raise ClusterError(
            f"the worker on {_host()} would share {cache_dir(work.root)} with another machine, which the ledger in it "
            f"does not stand: start it with {CACHE_VARIABLE} set to a folder on a disk of its own"
        )
    return software_versions()


def fetch_here(ticket: Ticket, cell: Cell) -> tuple[str, CellProgress | None]:
    """Fetch the files of a cell into this machine's cache and keep them there until it is built.

    Gives this worker's address, and what came; None where the cell is done. It waits for a network more than it
    computes: the thread's place is free for a cell that is cut.
    """
    check_in(ticket)
    secede()
    work = ticket.work
    archive = _SITES.of(work).hold(cell)
    latest: deque[CellProgress] = deque(maxlen=1)
    fetch_cell(
        cell, work.survey, archive, work.building,
        standards_sha256=work.standards_sha256, connections=work.connections,
        seconds=work.seconds, progress=latest.append,
    )  # fmt: skip
    return str(get_worker().address), latest[0] if latest else None


def build_here(ticket: Ticket, cell: Cell) -> CellResult:
    """Build a cell in a process of its own."""
    check_in(ticket)
    worker, site = get_worker(), _SITES.of(ticket.work)
    worker.log_event(TOPIC, {"cell": cell.cell_id, "what": "begun", "token": ticket.token})
    process = _PROCESSES.take(ticket.work)
    try:
        result = process.build(ticket.work, cell)
    finally:
        _PROCESSES.give_back(process)
        site.release(cell)
    worker.log_event(TOPIC, {"cell": cell.cell_id, "what": "done", "token": ticket.token})
    return result


def dismiss(ticket: Ticket) -> None:
    """The build is over, well or not: end what still works for it."""
    _PROCESSES.end(ticket.work)
    _SITES.close(ticket.work)


class _Site:
    """The archive of a build on this worker, and the files in its cache that wait for their cell to be built."""

    def __init__(self, work: CellWork) -> None:
        self.work = work
        self._open = ExitStack()
        self._archive = self._open.enter_context(archive_of(work))
        self._held: dict[str, ExitStack] = {}
        self._guard = threading.Lock()

    def hold(self, cell: Cell) -> Archive:
        """Until `release`, no file of the cell makes room for others."""
        with self._guard:
            if cell.cell_id not in self._held:
                held = self._held[cell.cell_id] = ExitStack()
                held.enter_context(
                    self._archive.needing(uses(cell, self.work.survey) + detection_uses(cell, self.work.survey))
                )
        return self._archive

    def release(self, cell: Cell) -> None:
        with self._guard:
            held = self._held.pop(cell.cell_id, None)
        if held is not None:
            held.close()

    def close(self) -> None:
        with self._guard:
            for held in self._held.values():
                held.close()
            self._held.clear()
        self._open.close()


class _Sites:
    """One per build that has sent a cell here."""

    def __init__(self) -> None:
        self._sites: list[_Site] = []
        self._guard = threading.Lock()

    def of(self, work: CellWork) -> _Site:
        with self._guard:
            for site in self._sites:
                if site.work == work:
                    return site
            self._sites.append(_Site(work))
            return self._sites[-1]

    def close(self, work: CellWork) -> None:
        with self._guard:
            mine = [site for site in self._sites if site.work == work]
            self._sites = [site for site in self._sites if site.work != work]
        for site in mine:
            site.close()


class _Processes:
    """As many as there are threads that build at once; one that is idle is used again."""

    def __init__(self) -> None:
        self._busy: dict[CellProcess, CellWork] = {}
        self._idle: list[CellProcess] = []
        self._guard = threading.Lock()

    def take(self, work: CellWork) -> CellProcess:
        with self._guard:
            process = self._idle.pop() if self._idle else CellProcess()
            if not process.is_alive:
                process.end()
                process = CellProcess()
            self._busy[process] = work
            return process

    def give_back(self, process: CellProcess) -> None:
        with self._guard:
            del self._busy[process]
            if process.is_alive:
                self._idle.append(process)

    def end(self, work: CellWork) -> None:
        """Those that are at this work, and those that are at none."""
        with self._guard:
            for process, of in self._busy.items():
                if of == work:
                    process.kill()
            for process in self._idle:
                process.end()
            self._idle.clear()


def _host() -> str:
    return f"{os.uname().nodename} ({_address()})"


def _address() -> str:
    try:
        return str(get_worker().address)
    except ValueError:  # asked by the scheduler's `run`, not by a task
        return "asked directly"


_SITES: Final = _Sites()
_PROCESSES: Final = _Processes()


def events_of(token: str, events: Any) -> list[dict[str, Any]]:
    """What happened to the cells of a build and `at` which time [s since 1970], from the scheduler's events."""
    return [{"at": at, **event} for at, event in events if isinstance(event, dict) and event.get("token") == token]
