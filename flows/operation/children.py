"""Processes that belong together: started in order, watched, started anew when they die, ended in reverse order."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Final

from pipeline.errors import WorkerDied

PATIENCE_S: Final = 30.0
"""How long a process may take to end when it is asked to."""
LIVES: Final = 3
"""Deaths within `LIVES_WITHIN_S` after which a process is given up, and everything with it."""
LIVES_WITHIN_S: Final = 300.0
WAIT_S: Final = 0.5

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None

Say = Callable[[str], None]


@dataclass(slots=True)
class Child:
    """One process under its name."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    deaths: deque[float] = field(default_factory=deque)


class Children:
    """The processes of one command. What they print is said line by line, each line under its process's name.

    Each is the leader of a group of its own: Ctrl-C at the terminal reaches us alone, and we end them in order.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._children: list[Child] = []

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start a process and watch it from now on."""
        child = Child(name, command, environment)
        self._children.append(child)
        self._launch(child)
        return child

    def check(self) -> None:
        """Start anew what has died.

        Raises
        ------
        WorkerDied
            A process dies again and again.
        """
        for child in self._children:
            code = child.process.poll() if child.process else None
            if code is not None:
                self._died(child, code)

    def stop(self, *, at_once: Callable[[], bool] = lambda: False) -> None:
        """End all, the last that was started first; `at_once`: whether to wait no longer."""
        for child in reversed(self._children):
            if child.process is not None and child.process.poll() is None:
                self._say(f"{child.name}: ending it")
                _end(child.process, at_once)
            if child.process is not None:
                _signal_group(child.process, signal.SIGKILL)  # what it has left behind
        self._children.clear()

    def _launch(self, child: Child) -> None:
        child.process = subprocess.Popen(
            child.command,
            env=dict(child.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_the_parent,
        )
        threading.Thread(target=self._repeat, args=(child.name, child.process), daemon=True).start()

    def _repeat(self, name: str, process: subprocess.Popen[bytes]) -> None:
        with process.stdout or nullcontext(()) as lines:
            for line in lines:
                if text := line.decode("utf-8", "replace").rstrip():
                    self._say(f"{name}: {text}")

    def _died(self, child: Child, code: int) -> None:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        now = time.monotonic()
        child.deaths.append(now)
        while now - child.deaths[0] > LIVES_WITHIN_S:
            child.deaths.popleft()
        if len(child.deaths) >= LIVES:
            raise WorkerDied(
                f"{child.name} {how}, for the {LIVES}th time in {LIVES_WITHIN_S / 60:.0f} minutes: "
                f"its last lines above say why; to see it alone: {' '.join(child.command)}"
            )
        self._say(f"{child.name} {how}: starting it again")
        self._launch(child)


def _end_with_the_parent() -> None:
    """Have the kernel ask this process to end when its parent is gone, even by `kill -9`. Linux alone can do that."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes], at_once: Callable[[], bool]) -> None:
    _signal_group(process, signal.SIGTERM, leader_alone=True)
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline and not at_once():
        time.sleep(WAIT_S / 5)
    if process.poll() is None:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int, *, leader_alone: bool = False) -> None:
    """Signal a process, or all of its group; that they are gone is as well."""
    try:
        if leader_alone:
            os.kill(process.pid, number)
        else:
            os.killpg(process.pid, number)
    except ProcessLookupError:
        return
