"""Cells as tasks: one that fails is alone in that, is tried again where that may help, and its like can end a build."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from flows.progress import GivenUp
from pipeline.cells import CellProgress
from pipeline.errors import ArchiveError, DatasetError, FrameError, WorkerDied
from pipeline.plan import Cell

pytestmark = pytest.mark.usefixtures("prefect_server")


def cells(n: int) -> list[Cell]:
    return [cast(Cell, SimpleNamespace(cell_id=f"cell-{number:04d}")) for number in range(n)]


class FakeCrew:
    """Builds nothing; some cells fail, as often as said."""

    progress: Any = None
    """Of the build."""

    def __init__(self, failures: dict[str, list[Exception]], room: int = 2) -> None:
        self.failures = failures
        self.room = room
        self.tried: Counter[str] = Counter()
        self.fetching = self.most_fetching = 0
        self._lock = threading.Lock()

    def fetch(self, cell: Cell) -> str:
        with self._lock:
            self.fetching += 1
            self.most_fetching = max(self.most_fetching, self.fetching)
        threading.Event().wait(0.02)
        with self._lock:
            self.fetching -= 1
        return "here"

    def build(self, cell: Cell, near: str | None) -> Any:
        with self._lock:
            self.tried[cell.cell_id] += 1
            if waiting := self.failures.get(cell.cell_id):
                raise waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return f"{cell.cell_id} at {near}"


def run(crew: FakeCrew, n: int, max_failed: float, slots: Any = None) -> tuple[list[Any], dict[str, str]]:
    """`build_all` inside a flow, without the waits between attempts."""
    from prefect import flow
    from prefect.task_runners import ThreadPoolTaskRunner

    from flows.crews import cells as module
    from flows.crews.slots import Slots
    from flows.progress import BuildProgress

    shown: list[float] = []

    @flow(name="cells", task_runner=ThreadPoolTaskRunner(max_workers=8))  # type: ignore[arg-type]
    def all_cells() -> tuple[list[Any], dict[str, str]]:
        progress = BuildProgress(n, n, shown.append)  # type: ignore[arg-type]
        crew.progress = progress
        site = module.Site(crew, slots or Slots(4, shared=False), progress)  # type: ignore[arg-type]
        return module.build_all(cells(n), site, max_failed=max_failed, show=shown.append)

    return all_cells()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.crews import cells as module

    monkeypatch.setattr(module, "build_cells", module.build_cells.with_options(retry_delay_seconds=0))


def test_a_poisoned_cell_fails_alone_and_one_with_bad_luck_is_tried_again() -> None:
    crew = FakeCrew(
        {"cell-0003": [FrameError("it is poisoned")], "cell-0005": [ArchiveError("not now"), ArchiveError("nor now")]}
    )
    results, failed = run(crew, 8, max_failed=0.25)
    assert failed == {"cell-0003": "it is poisoned", "cell-0005": "nor now"}
    assert [result.split()[0] for result in results] == [f"cell-{number:04d}" for number in (0, 1, 2, 4, 6, 7)]
    assert crew.tried["cell-0003"] == 1  # the same file is as poisoned the next time
    assert crew.tried["cell-0005"] == 3


def test_too_many_failures_end_the_build_before_the_rest_is_begun() -> None:
    crew = FakeCrew({f"cell-{number:04d}": [FrameError("a disk is gone")] for number in range(40)})
    with pytest.raises(
        DatasetError, match=r"cells failed, nothing was published; run again.*cell-000.: a disk is gone"
    ):
        run(crew, 40, max_failed=0.1)
    assert 4 < len(crew.tried) < 10


def test_a_cell_at_work_ends_before_a_build_that_has_failed_closes_what_it_uses() -> None:
    """It is told with its next frame, and its task is not tried again."""
    ended = threading.Event()

    class SlowCrew(FakeCrew):
        def build(self, cell: Cell, near: str | None) -> Any:
            if cell.cell_id != "cell-0000":
                return super().build(cell, near)
            with self._lock:
                self.tried[cell.cell_id] += 1
            for number in range(1000):
                threading.Event().wait(0.02)
                try:
                    self.progress.frame_done(CellProgress(cell.cell_id, number, 1000, 0, 0))
                except GivenUp:
                    ended.set()
                    raise
            raise AssertionError("it was never told")

    crew = SlowCrew({"cell-0001": [FrameError("a disk is gone")]})
    with pytest.raises(DatasetError, match="a disk is gone"):
        run(crew, 8, max_failed=0.1)
    assert ended.is_set()
    assert crew.tried["cell-0000"] == 1


def test_many_cells_are_several_to_a_task_and_still_fail_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on SQLite bears some hundred tasks a run; no cell is lost in a batch, and none is built twice."""
    from flows.crews import cells as module

    monkeypatch.setattr(module, "MOST_TASKS", 5)
    submitted: list[int] = []
    submit = module._submit
    monkeypatch.setattr(module, "_submit", lambda some, site: (submitted.append(len(some)), submit(some, site))[1])
    crew = FakeCrew({"cell-0007": [ArchiveError("never")]}, room=3)
    results, failed = run(crew, 23, max_failed=0.25)
    assert submitted == [5, 5, 5, 5, 3]
    assert (len(results), list(failed)) == (22, ["cell-0007"])
    assert crew.tried.pop("cell-0007") == 3
    assert set(crew.tried.values()) == {1}


def test_where_the_server_shares_connections_a_cell_is_fetched_in_its_turn() -> None:
    """Four connections of four, each cell needs all: one is fetched at a time, whatever the room."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

    from flows.crews.slots import ARCHIVE_LIMIT, Slots, slots_for
    from pipeline.survey import load_survey

    assert slots_for(load_survey("tiny")) == Slots(4, shared=False)
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=ARCHIVE_LIMIT, limit=3))
        try:
            slots = slots_for(load_survey("tiny"))
            assert slots == Slots(3, shared=True)  # a cell that asked for four would wait for ever
            crew = FakeCrew({}, room=4)
            results, _ = run(crew, 4, max_failed=0, slots=slots)
            assert client.read_global_concurrency_limit_by_name(ARCHIVE_LIMIT).active_slots == 0
        finally:
            client.delete_global_concurrency_limit_by_name(ARCHIVE_LIMIT)
    assert results == [f"cell-{number:04d} at here" for number in range(4)]
    assert crew.most_fetching == 1


def test_a_turn_is_waited_for_while_it_is_needed_and_while_the_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """All slots are another's: who waits looks up now and then. The server does not answer: it is asked again."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError

    from flows.crews import slots as module

    monkeypatch.setattr(module, "LOOK_S", 0.3)
    monkeypatch.setattr(module, "AGAIN_S", 0.05)
    looks: list[None] = []

    def go_on() -> None:
        looks.append(None)
        if len(looks) > 2:
            raise GivenUp

    limit = GlobalConcurrencyLimitCreate(name=module.ARCHIVE_LIMIT, limit=4)
    slots = module.Slots(4, shared=True)
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(limit)
        try:
            with slots.turn(lambda: None), pytest.raises(GivenUp), slots.turn(go_on):
                pass
        finally:
            client.delete_global_concurrency_limit_by_name(module.ARCHIVE_LIMIT)
    looks.clear()

    @contextmanager
    def of_a_server_that_is_away(*_: Any, **__: Any) -> Iterator[None]:
        raise ConcurrencySlotAcquisitionError("Unable to acquire concurrency slots") from httpx.ConnectError("refused")
        yield

    monkeypatch.setattr(module, "concurrency", of_a_server_that_is_away)
    with pytest.raises(GivenUp), slots.turn(go_on):
        pass
    assert len(looks) == 3
    monkeypatch.setattr(module, "AWAY_S", 0)
    with pytest.raises(ConcurrencySlotAcquisitionError), slots.turn(lambda: None):
        pass


def test_a_cell_that_kills_its_process_does_not_take_its_neighbour_along() -> None:
    """All cells of a machine share its processes; after a death each shows with one of its own whose fault it was."""
    from flows.crews.crew import LocalCrew
    from flows.crews.workers import worker_pool

    class Crew(LocalCrew):
        def _build(self, cell: Cell, executor: Executor, workers: int) -> Any:
            try:
                if cell.cell_id == "poison":
                    executor.submit(_kill_this_process).result()
                else:
                    executor.submit(time.sleep, 0.5).result()
            except BrokenExecutor as error:
                raise WorkerDied from error
            return cell.cell_id

    poison, healthy = (cast(Cell, SimpleNamespace(cell_id=name)) for name in ("poison", "healthy"))
    with worker_pool(2) as pool, ThreadPoolExecutor(2) as threads:
        pool.submit(abs, 0).result()
        crew = Crew(cast(Any, None), cast(Any, None), pool, 2, lambda _: None)
        of_healthy, of_poison = (threads.submit(crew.build, cell, None) for cell in (healthy, poison))
        assert of_healthy.result(timeout=60) == "healthy"
        with pytest.raises(WorkerDied):
            of_poison.result(timeout=60)


def _kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
