"""A Dask cluster as somebody would start it by hand: scheduler and workers are processes of their own, on 127.0.0.1."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

PROJECT = Path(__file__).resolve().parents[2]


class DaskProcesses:
    """A context manager: the scheduler runs inside; workers come and go.

    Parameters
    ----------
    folder
        For logs and what Dask keeps.
    options
        Of the scheduler, such as TLS certificates.
    """

    def __init__(self, folder: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._environment = environment or {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._file = folder / "scheduler.json"
        self._options = options

    def __enter__(self) -> Self:
        command = ["dask_scheduler", "--port", "0", "--scheduler-file", str(self._file)]
        self.scheduler = self._start("scheduler", *command, *self._options)
        self.address = wait_for(self._read_address, 60)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def start_worker(self, name: str, *options: str, threads: int = 1, **environment: str) -> subprocess.Popen[bytes]:
        """A worker without the nanny that would start it again."""
        command = ["dask_worker", self.address, "--nthreads", str(threads), "--name", name, "--no-nanny"]
        kept = ["--local-directory", str(self._folder / name)]
        return self._start(name, *command, *kept, *options, **environment)

    def address_of(self, name: str) -> str:
        """Of a worker, once it has one."""
        wait_for(lambda: "Registered to:" in self.log(name) or None, 60)
        started = re.search(r"Start worker at:\s+(\S+)", self.log(name))
        assert started, self.log(name)
        return started[1]

    def log(self, name: str) -> str:
        """What a process has said."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def _start(self, name: str, tool: str, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{tool}", *options, "--host", "127.0.0.1", "--no-dashboard"]
        variables = os.environ | {"PYTHONPATH": str(PROJECT)} | self._environment | environment
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=variables, cwd=self._folder)
        self._processes.append(process)
        return process

    def _read_address(self) -> str | None:
        try:
            return str(json.loads(self._file.read_text())["address"])
        except (FileNotFoundError, json.JSONDecodeError):
            return None


T = TypeVar("T")


def wait_for(look: Callable[[], T | None], seconds: float) -> T:
    """The first true answer."""
    deadline = time.monotonic() + seconds
    while not (answer := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing came of {look} in {seconds:.0f} s")
        time.sleep(0.05)
    return answer
