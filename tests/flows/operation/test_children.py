"""Processes that belong together: one that dies is started again, until it is too often; all end in order."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.operation.children import LIVES, Children
from pipeline.errors import WorkerDied

STAYS = "import time; print('here', flush=True); time.sleep(60)"
DIES = "import sys; print('no memory', flush=True); sys.exit(3)"


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_they_end_in_reverse_order_with_all_that_they_started(tmp_path: Path) -> None:
    said: list[str] = []
    children = Children(said.append)
    grandchild = tmp_path / "pid"
    forks = f"import subprocess, sys, pathlib; p = subprocess.Popen([sys.executable, '-c', {STAYS!r}]); "
    forks += f"pathlib.Path({str(grandchild)!r}).write_text(str(p.pid)); p.wait()"
    children.start("server", [sys.executable, "-c", forks], os.environ)
    children.start("worker", [sys.executable, "-c", STAYS], os.environ)
    wait_until(lambda: "server: here" in said and "worker: here" in said)
    children.check()
    children.stop()
    assert [line for line in said if line.endswith("ending it")] == ["worker: ending it", "server: ending it"]
    pid = int(grandchild.read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text())


def test_one_that_dies_again_and_again_is_named(tmp_path: Path) -> None:
    said: list[str] = []
    children = Children(said.append)
    children.start("cpu", [sys.executable, "-c", DIES], os.environ)

    def watch() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            children.check()
            time.sleep(0.02)

    with pytest.raises(WorkerDied, match=rf"cpu ended with exit code 3, for the {LIVES}th time"):
        watch()
    children.stop()
    assert said.count("cpu ended with exit code 3: starting it again") == LIVES - 1
    wait_until(lambda: said.count("cpu: no memory") == LIVES)
