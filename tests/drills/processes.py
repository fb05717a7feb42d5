"""Processes that a drill starts, kills and waits for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class Started:
    """One process with children of its own, in a session of its own, writing to a log."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        folder: Path,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, user=user, group=user, extra_groups=[] if user else None,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Fail with the end of its log if it has ended."""
        if (code := self._process.poll()) is not None:
            raise AssertionError(f"{self.name} ended with {code}: {self.tail()}")

    def tail(self, lines: int = 25) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """End it and every process that it has started, without warning, as a power cut does."""
        for pid in [self.pid, *descendants(self.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def stop(self, seconds: float = 20) -> int:
        """Ask it to end, and end it if it does not; its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.wait()


def run(name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path, seconds: float = 120) -> str:
    """Run a command that must end well; what it printed."""
    done = subprocess.run(
        command, cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def processes() -> list[int]:
    """All process ids of this machine."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def kill_all_with(variable: str, value: str) -> None:
    """End every process that has a variable in its environment; children inherit it, whoever their parent is now."""
    mark = f"{variable}={value}".encode()
    for pid in processes():
        with suppress(OSError):
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Children of a process, their children, and so on."""
    parents: dict[int, list[int]] = {}
    for child in processes():
        with suppress(OSError, IndexError, ValueError):
            # The second field is a name in brackets that may hold anything; after it: state, parent.
            parent = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(child)
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def wait_for(what: str, condition: Callable[[], T], seconds: float, *alive: Started, pause_s: float = 0.25) -> T:
    """The first true answer of `condition`; fails after `seconds`, or when a process that must be alive is not."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        for process in alive:
            process.check()
        if time.monotonic() > deadline:
            tails = "\n".join(f"--- {process.name}\n{process.tail()}" for process in alive)
            raise AssertionError(f"waited {seconds:.0f} s in vain for {what}\n{tails}")
        time.sleep(pause_s)
    return answer


def answers(port: int) -> bool:
    """Whether something accepts connections on a port of 127.0.0.1."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def free_port() -> int:
    """A port of 127.0.0.1 that nothing uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
