"""Training in processes that torchrun starts: they train, say what is wrong, and end with whoever started them."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from flows.crews.torchrun import _holding as holding
from flows.crews.torchrun import _pass_on as pass_on
from flows.crews.torchrun import run_torchrun
from model.errors import TrainingError
from model.rundir import WEIGHTS_FILE, step_dir
from tests.model.conftest import mixed_sources, write_dataset

SLEEPER = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(600)"


@pytest.mark.slow
def test_two_processes_train_and_a_wrong_setting_is_one_clear_error(tmp_path: Path) -> None:
    """Each has trained one of the two models; what the first prints is the result."""
    dataset = write_dataset(tmp_path / "dataset", mixed_sources(6), n_images=(5, 25))
    small = ["--set", "model.images=12", "--set", "train.epochs=1", "--set", "train.samples_per_epoch=4"]
    settings = [*small, "--set", "train.batch=4", "--set", "protocol.members=2", "--set", 'device="cpu"', "--fold", "1"]
    said: list[str] = []
    with watching_ports() as listening:
        printed = run_torchrun("train", [str(dataset), str(tmp_path / "run"), *settings, "--json"], 2, say=said.append)
    assert listening
    assert {ipaddress.ip_address(host).is_loopback for host in listening} == {True}
    assert {(model["fold"], model["member"]) for model in json.loads(printed)["models"]} == {(1, 0), (1, 1)}
    assert all((step_dir(tmp_path / "run", 1, member, "train") / WEIGHTS_FILE).is_file() for member in range(2))
    assert said
    with pytest.raises(TrainingError, match=r"2 processes of `s82 train` ended with exit code 1: .*epochz") as error:
        run_torchrun("train", [str(dataset), str(tmp_path / "other"), "--set", "train.epochz=1"], 2, say=said.append)
    assert "Traceback" not in str(error.value)


def test_what_hangs_on_a_lifeline_ends_with_whoever_held_it() -> None:
    """A killed holder cannot end anything itself, not even a grandchild that ignores SIGTERM."""
    code = f"""
import subprocess, sys
stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + {SLEEPER!r}
child = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
command = [sys.executable, "-m", "flows.crews.lifeline", sys.executable, "-c", child, stubborn]
subprocess.Popen(command, stdin=subprocess.PIPE).wait()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        grandchild = int(holder.stdout.readline())
        holder.kill()
    wait_for(lambda: not is_running(grandchild), 20)


def test_a_cancelled_flow_takes_its_processes_along() -> None:
    """While a thread still reads what they say."""
    begun: list[int] = []

    def train_until_cancelled() -> None:
        with holding([sys.executable, "-c", SLEEPER], {}) as process:
            begun.append(int(process.stdout.readline()))  # type: ignore[union-attr]
            threading.Thread(target=pass_on, args=(process.stderr, print, deque()), daemon=True).start()
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_until_cancelled()
    assert not is_running(*begun)


def test_a_command_on_a_lifeline_gives_its_own_exit_code() -> None:
    command = [sys.executable, "-m", "flows.crews.lifeline", sys.executable, "-c", "import sys; sys.exit(7)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.wait(20) == 7


@contextmanager
def watching_ports() -> Iterator[set[str]]:
    """Addresses at which descendants of this process listen, as long as this goes on."""
    hosts: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    hosts.update(one.laddr.ip for one in process.net_connections() if one.status == psutil.CONN_LISTEN)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield hosts
    finally:
        over.set()
        thread.join()


def is_running(pid: int) -> bool:
    """Whether there is such a process that is more than an entry nobody has collected."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.05)
