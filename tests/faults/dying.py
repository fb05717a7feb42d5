"""Builds that are killed, each in a process of its own; imported once by the server that forks them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.faults.conftest import build, refresh


def run(url: str, root: Path, again: bool, die_at_sync: int, changes: dict[str, Any] | None) -> None:
    """Build or refresh; with `die_at_sync`, die at that call of fsync, when something is about to become lasting."""
    if die_at_sync:
        _die_at(die_at_sync)
    if again:
        refresh(url, root, changes=changes)
    else:
        build(url, root, cell_width_deg=0.06, changes=changes)


def _die_at(count: int) -> None:
    left, fsync = count, os.fsync

    def counting(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    os.fsync = counting


def start(
    url: str, root: Path, *, again: bool = False, die_at_sync: int = 0, changes: dict[str, Any] | None = None
) -> BaseProcess:
    """Start a build, or a refresh with `again`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.dying", "pipeline.simulate.archive"])
    process = context.Process(target=run, args=(url, root, again, die_at_sync, changes))
    process.start()
    return process


def kill_after(process: BaseProcess, seconds: float) -> None:
    """SIGKILL, if it is still running."""
    process.join(seconds)
    process.kill()
    process.join()


def finish(process: BaseProcess) -> float:
    """Wait for a process that must end well; how long that took [s]."""
    started = time.monotonic()
    process.join(300)
    assert process.exitcode == 0
    return time.monotonic() - started
