"""One line every few seconds instead of one per frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from pipeline.cells import CellProgress
from pipeline.errors import PipelineError

SECONDS_BETWEEN_LINES: Final = 5.0


class GivenUp(PipelineError):
    """A cell is not built to its end, since the build will not come to its own."""


class BuildProgress:
    """Add up the progress of all cells and say where the build stands, at most every few seconds. Thread-safe."""

    def __init__(self, cells: int, frames: int, say: Callable[[str], None]) -> None:
        self._cells = cells
        self._frames = frames
        self._say = say
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._last = self._started
        self._latest: dict[str, CellProgress] = {}
        self._bytes: dict[str, int] = {}
        self._stopped = threading.Event()
        self._finished: set[str] = set()

    def stop(self) -> None:
        """Let the cells that are being built end with their next frame."""
        self._stopped.set()

    def go_on(self) -> None:
        """Do nothing, while the build is not stopped.

        Raises
        ------
        GivenUp
            It is.
        """
        if self._stopped.is_set():
            raise GivenUp("given up, as the build has failed")

    def frame_done(self, progress: CellProgress) -> None:
        """Take note of one frame of one cell (raises as `go_on`)."""
        self.go_on()
        with self._lock:
            before = self._bytes.get(progress.cell_id, 0)
            self._bytes[progress.cell_id] = max(before, progress.bytes_fetched)  # fetched ahead, it is cut without
            self._latest[progress.cell_id] = progress
            now = time.monotonic()
            if now - self._last >= SECONDS_BETWEEN_LINES:
                self._last = now
                self._say(self._line(now))

    def cell_done(self, cell_id: str) -> None:
        """Take note of a finished cell."""
        with self._lock:
            self._finished.add(cell_id)
            if len(self._finished) == self._cells:
                self._say(self._line(time.monotonic()))

    @property
    def part(self) -> float:
        """How large a part of the frames is read."""
        with self._lock:
            if len(self._finished) == self._cells:
                return 1.0
            return min(1.0, sum(progress.frames_done for progress in self._latest.values()) / max(self._frames, 1))

    def _line(self, now: float) -> str:
        done = sum(progress.frames_done for progress in self._latest.values())
        megabytes = sum(self._bytes.values()) / 1e6
        thumbnails = sum(progress.thumbnails for progress in self._latest.values())
        elapsed = now - self._started
        left = f"{elapsed / done * (self._frames - done):.0f} s left" if done else "starting"
        return (
            f"cells {len(self._finished)}/{self._cells} · frame reads {done}/{self._frames} · "
            f"{megabytes:.0f} MB fetched · {thumbnails} thumbnails · {left}"
        )


class Stopwatch:
    """Wall time per named step, in the order the steps first ran."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, step: str) -> _Lap:
        return _Lap(self, step)


class _Lap:
    def __init__(self, watch: Stopwatch, step: str) -> None:
        self._watch, self._step = watch, step

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        spent = time.monotonic() - self._start
        self._watch.seconds[self._step] = round(self._watch.seconds.get(self._step, 0.0) + spent, 2)
