"""A process that builds cells one after the other, and that can be ended while it does.

Neither a thread that hangs in a system call nor a cell that takes all memory can be stopped from inside. A worker of
a cluster therefore has its cells built by processes of this kind: one that is overdue is killed, one that the system
kills takes only its own cell along, and all end with their worker, whatever becomes of that.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import groupby
from multiprocessing.connection import Connection, Pipe
from operator import itemgetter
from typing import Final, ParamSpec, TypeVar

from flows.crews.crew import CellWork
from flows.crews.lifeline import when_let_go
from flows.crews.workers import LONGEST_CALL_S, in_time
from pipeline.archive import Archive
from pipeline.build import open_archive
from pipeline.cellrecord import CellResult
from pipeline.cells import build_cell
from pipeline.errors import CellTimeout, WorkerDied
from pipeline.plan import Cell

P = ParamSpec("P")
T = TypeVar("T")

GRACE_S: Final = 15.0
"""What a cell has, once overdue, to say itself what it was waiting for."""


class CellProcess:
    """The handle of such a process; one cell at a time."""

    def __init__(self) -> None:
        self._ours, theirs = Pipe()
        command = [sys.executable, "-m", "flows.crews.cellprocess", str(theirs.fileno())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()])
        theirs.close()

    @property
    def is_alive(self) -> bool:
        """Whether it can be given a cell."""
        return self._process.poll() is None

    def build(self, work: CellWork, cell: Cell) -> CellResult:
        """As `build_cell`; on one core.

        Raises
        ------
        CellTimeout
            The cell is overdue. The process has ended.
        WorkerDied
            The process ended before the cell was done.
        """
        try:
            self._ours.send((work, cell))
            wait_s = None if work.seconds == math.inf else work.seconds + GRACE_S
            if not self._ours.poll(wait_s):
                raise CellTimeout(
                    f"cell {cell.cell_id} was not done after {work.seconds:.0f} s and its process was ended"
                )
            answer: CellResult | Exception = self._ours.recv()
        except (EOFError, OSError) as error:
            self.end()
            raise WorkerDied(
                f"the process that built cell {cell.cell_id} ended ({_how(self._process.returncode)})"
            ) from error
        except CellTimeout:
            self.end()
            raise
        if isinstance(answer, CellTimeout):
            self.end()  # with the thread that still hangs in it
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self) -> None:
        """From another thread than the one that waits for its cell, which is told; what lies on disk is whole."""
        self._process.kill()

    def end(self) -> None:
        """Kill it and take leave of it."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._ours.close()


class _Cutter(ThreadPoolExecutor):
    """One thread, whose calls end this process if one hangs."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return super().submit(partial(in_time, LONGEST_CALL_S, fn), *args, **kwargs)


def main(connection: Connection) -> None:
    """Build the cells that come until nobody is left to send any."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    for work, cells in groupby(_requests(connection), key=itemgetter(0)):
        with archive_of(work) as archive, _Cutter(1, thread_name_prefix="cut") as cutting:
            for _, cell in cells:
                connection.send_bytes(_picklable(_answer(work, cell, archive, cutting)))


def _requests(connection: Connection) -> Iterator[tuple[CellWork, Cell]]:
    while True:
        try:
            yield connection.recv()
        except EOFError:
            return


def archive_of(work: CellWork) -> Archive:
    """The survey's servers behind this machine's cache."""
    return open_archive(work.survey, work.root, retry_missing=work.retry_missing, max_connections=work.connections)


def _answer(work: CellWork, cell: Cell, archive: Archive, cutting: ThreadPoolExecutor) -> CellResult | Exception:
    try:
        return build_cell(cell, work.survey, archive, cutting, work.building, workers=1, seconds=work.seconds)
    except Exception as error:
        return error


def _picklable(answer: CellResult | Exception) -> bytes:
    """Some exceptions of libraries cannot be sent, or not be put together again."""
    try:
        content = pickle.dumps(answer)
        pickle.loads(content)  # noqa: S301  (our own)
        return content
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(answer).__name__}: {answer}"))


def _how(code: int | None) -> str:
    if code == -signal.SIGALRM:
        return f"it hung in a single frame for {LONGEST_CALL_S:.0f} s"
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}; SIGKILL may mean out of memory"
    return f"exit code {code}"


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    when_let_go(lambda: os._exit(1))
    main(Connection(int(sys.argv[1])))
