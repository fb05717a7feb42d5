"""A worker that dies takes only what was in flight with it, and Ctrl-C ends a build at once, to be continued."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from flows.crews.workers import WorkerPool, worker_pool
from pipeline.simulate.server import ArchiveServer, Fault


def test_a_killed_worker_is_replaced() -> None:
    with worker_pool(1) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()
        with pytest.raises(BrokenProcessPool):
            pool.submit(os._exit, 9).result()
        assert pool.submit(abs, -3).result() == 3


def test_ctrl_c_does_not_reach_a_process_that_is_still_starting() -> None:
    with worker_pool(1) as pool:
        answer = pool.submit(abs, -3)
        (starting,) = multiprocessing.active_children()
        assert starting.pid is not None
        os.kill(starting.pid, signal.SIGINT)
        assert answer.result(timeout=60) == 3


def test_ctrl_c_stops_a_build_within_seconds_and_leaves_no_process(tiny_archive: Path, tmp_path: Path) -> None:
    """The signal goes to the whole process group, as a terminal's does."""
    slow = [Fault("/das/*/fpC-*", "slow", times=1000, delay_s=20)]
    with ArchiveServer(tiny_archive, faults=slow) as server:
        command = [str(Path(sys.executable).with_name("s82")), "build", "--survey", "tiny", "--workers", "1"]
        options = ["--root", str(tmp_path / "root"), "--archive-root", server.url]
        environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect")}
        environment.pop("PREFECT_API_URL", None)
        process = subprocess.Popen(
            command + options, start_new_session=True, stderr=subprocess.PIPE, text=True, env=environment
        )
        try:
            wait_for(lambda: any("fpC" in request.path for request in server.requests) or frames_in(tmp_path), 120)
            os.killpg(process.pid, signal.SIGINT)
            _, stderr = process.communicate(timeout=15)
        finally:
            subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
    assert process.returncode == 130
    assert "stopped; finished work is kept" in stderr
    assert "Traceback" not in stderr
    assert not list(tmp_path.glob("root/datasets/tiny/latest"))


def frames_in(folder: Path) -> bool:
    return any(folder.rglob("cache/sas/**/frame-*.bz2"))


def wait_for(condition, seconds: float) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the build did not start fetching"
        time.sleep(0.2)


def test_a_call_that_hangs_is_ended_and_the_next_one_is_served() -> None:
    """Whatever it hangs in: its process is ended by the kernel, not asked."""
    pool = WorkerPool(1, seconds=0.3)
    with pytest.raises(BrokenProcessPool):
        pool.submit(time.sleep, 60).result(timeout=30)
    assert pool.submit(abs, -3).result(timeout=30) == 3
    pool.shutdown()


def test_the_processes_of_a_build_that_is_killed_do_not_stay_behind() -> None:
    """Nobody can clean up after `kill -9`; and a second attempt must not compete with the remains of the first."""
    code = (
        "import os, time; from flows.crews.workers import worker_pool\n"
        "if __name__ == '__main__':\n"
        "    with worker_pool(1) as pool: print(pool.submit(os.getpid).result(), flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while _is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(worker)


def _is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
